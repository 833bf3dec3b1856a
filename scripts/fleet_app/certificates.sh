#!/usr/bin/env bash
# Makes a certificate authority and a SuperLink's certificate for a name or address: certificates.sh FOLDER [HOST]
# Devices need ca.pem alone; keep the two keys. Each is good for a year.
set -euo pipefail
folder=${1:?give a folder} host=${2:-127.0.0.1}
kind=DNS
[[ $host =~ ^[0-9.]+$|: ]] && kind=IP
umask 077
mkdir -p "$folder"
openssl req -x509 -newkey rsa:3072 -nodes -days 365 -subj "/CN=pocketstep fleet" \
    -addext "basicConstraints=critical,CA:TRUE" -keyout "$folder/ca.key" -out "$folder/ca.pem"
openssl req -newkey rsa:3072 -nodes -subj "/CN=$host" -keyout "$folder/server.key" -out "$folder/server.csr"
openssl x509 -req -in "$folder/server.csr" -CA "$folder/ca.pem" -CAkey "$folder/ca.key" -CAcreateserial -days 365 \
    -extfile <(echo "subjectAltName=$kind:$host") -out "$folder/server.pem"
rm "$folder/server.csr"
chmod 644 "$folder/ca.pem" "$folder/server.pem"
