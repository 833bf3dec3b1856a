package pocketstep.learner

import java.math.BigDecimal
import java.math.MathContext
import java.nio.ByteBuffer
import java.nio.charset.CharacterCodingException
import java.nio.charset.CodingErrorAction
import java.security.MessageDigest

private val UNPRINTABLE =
    setOf(
        Character.CONTROL,
        Character.FORMAT,
        Character.SURROGATE,
        Character.PRIVATE_USE,
        Character.UNASSIGNED,
        Character.LINE_SEPARATOR,
        Character.PARAGRAPH_SEPARATOR,
        Character.SPACE_SEPARATOR,
    ).map { it.toInt() }.toSet()

/** Python's order of texts, by code point; Kotlin's own compares UTF-16 units. */
internal val codePointOrder: Comparator<String> =
    Comparator { a, b ->
        val left = a.codePoints().iterator()
        val right = b.codePoints().iterator()
        var result = 0
        while (result == 0 && left.hasNext() && right.hasNext()) {
            result = left.nextInt().compareTo(right.nextInt())
        }
        if (result != 0) result else left.hasNext().compareTo(right.hasNext())
    }

/** A text's length in code points, as limits of the formats count it. */
internal val String.points: Int get() = codePointCount(0, length)

internal fun isPrintable(point: Int): Boolean = point == ' '.code || Character.getType(point) !in UNPRINTABLE

/** A text in quotes, as messages show it: what can't be printed is escaped. */
internal fun quoted(text: String): String {
    val quote = if ('\'' in text && '"' !in text) '"' else '\''
    val result = StringBuilder().append(quote)
    text.codePoints().forEach { point ->
        when {
            point == quote.code || point == '\\'.code -> result.append('\\').appendCodePoint(point)
            point == '\n'.code -> result.append("\\n")
            point == '\r'.code -> result.append("\\r")
            point == '\t'.code -> result.append("\\t")
            isPrintable(point) -> result.appendCodePoint(point)
            point <= 0xFF -> result.append("\\x%02x".format(point))
            point <= 0xFFFF -> result.append("\\u%04x".format(point))
            else -> result.append("\\U%08x".format(point))
        }
    }
    return result.append(quote).toString()
}

/** The first [count] code points. */
internal fun String.first(count: Int): String = if (points <= count) this else substring(0, offsetByCodePoints(0, count))

/** Strict UTF-8: null for anything else, lone surrogates among it. */
internal fun decodeUtf8(data: ByteArray): String? =
    try {
        Charsets.UTF_8
            .newDecoder()
            .onMalformedInput(CodingErrorAction.REPORT)
            .onUnmappableCharacter(CodingErrorAction.REPORT)
            .decode(ByteBuffer.wrap(data))
            .toString()
    } catch (_: CharacterCodingException) {
        null
    }

/** Strict UTF-8 of a text: null for lone surrogates. */
internal fun encodeUtf8(text: String): ByteArray? =
    try {
        val buffer =
            Charsets.UTF_8
                .newEncoder()
                .onMalformedInput(CodingErrorAction.REPORT)
                .encode(java.nio.CharBuffer.wrap(text))
        ByteArray(buffer.remaining()).also(buffer::get)
    } catch (_: CharacterCodingException) {
        null
    }

internal fun sha256(): MessageDigest = MessageDigest.getInstance("SHA-256")

internal fun ByteArray.hex(): String = joinToString("") { "%02x".format(it) }

/** A share, as messages show it: `12%` or, with one digit, `12.3%`. */
internal fun percent(
    share: Double,
    digits: Int = 0,
): String = if (share.isNaN()) "nan%" else "%.${digits}f%%".format(java.util.Locale.ROOT, share * PERCENT)

private const val PERCENT = 100.0

/** A number with up to six digits, as Python's `:g` shows it. */
internal fun general(value: Double): String {
    if (value == 0.0) return "0"
    val rounded = BigDecimal(value).round(MathContext(6)).stripTrailingZeros()
    val exponent = rounded.precision() - rounded.scale() - 1
    if (exponent in -4..5) return rounded.toPlainString()
    val digits = rounded.movePointLeft(exponent).stripTrailingZeros().toPlainString()
    return "%se%s%02d".format(java.util.Locale.ROOT, digits, if (exponent < 0) "-" else "+", kotlin.math.abs(exponent))
}
