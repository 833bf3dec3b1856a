"""``pocketstep keygen``, ``sign`` and ``verify``: who made a bundle, from a shell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Bundle = Annotated[Path, typer.Argument(help="a bundle, folder or zip")]


def keygen(
    out: Annotated[
        Path, typer.Option("-o", "--out", help="name of the pair: OUT.key signs, OUT.pub is for apps")
    ] = Path("pocketstep"),
) -> None:
    """Makes an ed25519 key pair; keep OUT.key secret, pin what is in OUT.pub in your app."""
    from pocketstep.signing import generate_key

    private, public = generate_key(out)
    typer.echo(f"{private}: keep it secret, whoever has it can sign")
    typer.echo(f"{public}: {public.read_text().strip()}")


def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option("--key", help="the .key file of 'pocketstep keygen'")],
    release: Annotated[
        int | None,
        typer.Option("--release", help="number of this release: devices refuse lower ones (default: as it is)"),
    ] = None,
) -> None:
    """Signs a bundle in place: ed25519 over the manifest, which holds the digest of every other file."""
    from pocketstep.signing import public_key, read_private_key, sign_bundle

    private = read_private_key(key)
    signed = sign_bundle(bundle, private, release)
    typer.echo(f"{bundle}: release {signed.manifest.release}, signed by {public_key(private)}")


def verify(
    bundle: Bundle,
    key: Annotated[str, typer.Option("--key", help="the .pub file, or its 64 hex digits")],
) -> None:
    """Checks every byte of a bundle, and that a key signed it."""
    from pocketstep.signing import verify_bundle
    from pocketstep_device.cli import key_text

    verified = verify_bundle(bundle, key_text(key))
    typer.echo(f"{bundle}: release {verified.manifest.release}, signed by {verified.signed_by}")
