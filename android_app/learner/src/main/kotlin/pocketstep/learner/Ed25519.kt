package pocketstep.learner

import java.math.BigInteger
import java.security.MessageDigest

/**
 * Verifies ed25519 signatures (RFC 8032, section 5.1); Android's own provider has them from API 33 on.
 *
 * Only public numbers are at work, so it need not take the same time for every input. Stricter than the RFC demands:
 * encodings must be canonical, and keys of small order, for which anybody can forge, are refused.
 */
internal object Ed25519 {
    const val KEY_BYTES = 32
    const val SIGNATURE_BYTES = 64

    private fun number(value: Long): BigInteger = BigInteger.valueOf(value)

    private val P = BigInteger.ONE.shiftLeft(255) - number(19)
    private val ORDER = BigInteger.ONE.shiftLeft(252) + BigInteger("27742317777372353535851937790883648493")
    private val D = (number(-121665) * number(121666).modInverse(P)).mod(P)
    private val ROOT = number(2).modPow((P - BigInteger.ONE).shiftRight(2), P) // a square root of -1

    /** Extended coordinates: x = X/Z, y = Y/Z, X Y = T Z. */
    private class Point(
        val x: BigInteger,
        val y: BigInteger,
        val z: BigInteger,
        val t: BigInteger,
    )

    private val BASE: Point = checkNotNull(decode(littleEndian((number(4) * number(5).modInverse(P)).mod(P))))

    fun verify(
        key: ByteArray,
        signature: ByteArray,
        message: ByteArray,
    ): Boolean {
        if (key.size != KEY_BYTES || signature.size != SIGNATURE_BYTES) return false
        val commitment = signature.copyOfRange(0, KEY_BYTES)
        val scalar = fromLittleEndian(signature.copyOfRange(KEY_BYTES, SIGNATURE_BYTES))
        val public = decode(key)
        if (scalar >= ORDER || public == null || isSmall(public)) return false
        val hash = MessageDigest.getInstance("SHA-512").digest(commitment + key + message)
        val challenge = fromLittleEndian(hash).mod(ORDER)
        val negated = Point(P - public.x, public.y, public.z, P - public.t)
        return encode(twoProducts(scalar, BASE, challenge, negated)).contentEquals(commitment)
    }

    /** Whether these bytes are a public key that [verify] can accept anything of. */
    fun isUsableKey(key: ByteArray): Boolean = key.size == KEY_BYTES && decode(key)?.let { !isSmall(it) } == true

    /** A point from its 32 bytes (RFC 8032, 5.1.3); null where they are none, or not the canonical ones. */
    private fun decode(data: ByteArray): Point? {
        val all = fromLittleEndian(data)
        val sign = all.testBit(255)
        val y = all.clearBit(255)
        if (y >= P) return null
        val square = ((y * y - BigInteger.ONE) * (D * y * y + BigInteger.ONE).modInverse(P)).mod(P)
        var x = square.modPow((P + number(3)).shiftRight(3), P)
        if ((x * x).mod(P) != square) x = (x * ROOT).mod(P)
        if ((x * x).mod(P) != square || (x.signum() == 0 && sign)) return null
        if (x.testBit(0) != sign) x = P - x
        return Point(x, y, BigInteger.ONE, (x * y).mod(P))
    }

    private fun encode(point: Point): ByteArray {
        val inverse = point.z.modInverse(P)
        val x = (point.x * inverse).mod(P)
        val y = (point.y * inverse).mod(P)
        return littleEndian(if (x.testBit(0)) y.setBit(255) else y)
    }

    /** The sum of two points, equal or not (RFC 8032, 5.1.4). */
    private fun add(
        a: Point,
        b: Point,
    ): Point {
        val first = (a.y - a.x) * (b.y - b.x)
        val second = (a.y + a.x) * (b.y + b.x)
        val third = number(2) * a.t * b.t * D
        val fourth = number(2) * a.z * b.z
        return product(second - first, fourth - third, fourth + third, second + first)
    }

    private fun double(a: Point): Point {
        val first = a.x * a.x
        val second = a.y * a.y
        val h = first + second
        val g = first - second
        return product(h - (a.x + a.y).pow(2), number(2) * a.z * a.z + g, g, h)
    }

    private fun product(
        e: BigInteger,
        f: BigInteger,
        g: BigInteger,
        h: BigInteger,
    ) = Point((e * f).mod(P), (g * h).mod(P), (f * g).mod(P), (e * h).mod(P))

    /** [m] times [a] plus [n] times [b], bit by bit of both at once. */
    private fun twoProducts(
        m: BigInteger,
        a: Point,
        n: BigInteger,
        b: Point,
    ): Point {
        val both = add(a, b)
        var result = Point(BigInteger.ZERO, BigInteger.ONE, BigInteger.ONE, BigInteger.ZERO)
        for (bit in maxOf(m.bitLength(), n.bitLength()) - 1 downTo 0) {
            result = double(result)
            val add =
                if (m.testBit(bit)) {
                    (if (n.testBit(bit)) both else a)
                } else if (n.testBit(bit)) {
                    b
                } else {
                    null
                }
            if (add != null) result = add(result, add)
        }
        return result
    }

    /** Whether eight times the point is zero. */
    private fun isSmall(point: Point): Boolean = double(double(double(point))).let { it.x.signum() == 0 && it.y == it.z }

    private fun fromLittleEndian(bytes: ByteArray) = BigInteger(1, bytes.reversedArray())

    private fun littleEndian(value: BigInteger): ByteArray {
        val big = value.toByteArray()
        return ByteArray(KEY_BYTES) { if (it < big.size) big[big.size - 1 - it] else 0 }
    }
}
