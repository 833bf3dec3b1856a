package pocketstep.learner

import java.math.BigDecimal
import java.math.BigInteger
import java.math.MathContext
import java.math.RoundingMode

/**
 * JSON without its loopholes, and written exactly as Python's `json` writes it: digests are computed over such text.
 *
 * Values are `Map<String, Any?>` (in order), `List<Any?>`, `String`, `Long`, `BigInteger`, `Double`, `Boolean`, null.
 */
internal object Json {
    /** UTF-8 only; no duplicate keys, NaN, infinity or lone surrogates. */
    fun parse(
        data: ByteArray,
        what: String,
        failure: Failure = asInput,
    ): Any? {
        try {
            val text = decodeUtf8(data) ?: throw JsonSyntax("it is not UTF-8")
            return JsonReader(text).document()
        } catch (reason: JsonSyntax) {
            throw failure("$what is not valid JSON (${reason.message}): it was damaged. Fetch or make it again.", reason)
        }
    }

    /** `json.dumps(value, ensure_ascii=False, separators=(",", ":"))`. */
    fun compact(value: Any?): String = StringBuilder().also { write(value, it, COMPACT) }.toString()

    /** `json.dumps(value, sort_keys=True)`. */
    fun sorted(value: Any?): String = StringBuilder().also { write(value, it, SORTED) }.toString()

    private class Style(
        val comma: String,
        val colon: String,
        val sort: Boolean,
        val ascii: Boolean,
    )

    private val COMPACT = Style(",", ":", sort = false, ascii = false)
    private val SORTED = Style(", ", ": ", sort = true, ascii = true)

    private fun write(
        value: Any?,
        out: StringBuilder,
        style: Style,
    ) {
        when (value) {
            null -> {
                out.append("null")
            }

            is Boolean, is Int, is Long, is BigInteger -> {
                out.append(value)
            }

            is Double -> {
                out.append(pythonFloat(value))
            }

            is String -> {
                writeText(value, out, style.ascii)
            }

            is List<*> -> {
                out.append('[')
                value.forEachIndexed { index, item ->
                    if (index > 0) out.append(style.comma)
                    write(item, out, style)
                }
                out.append(']')
            }

            is Map<*, *> -> {
                writeObject(value, out, style)
            }

            else -> {
                throw InputException("The info of a state must be finite JSON ($value); leave that value out.")
            }
        }
    }

    private fun writeObject(
        value: Map<*, *>,
        out: StringBuilder,
        style: Style,
    ) {
        val keys = value.keys.map { it as String }
        out.append('{')
        (if (style.sort) keys.sortedWith(codePointOrder) else keys).forEachIndexed { index, key ->
            if (index > 0) out.append(style.comma)
            writeText(key, out, style.ascii)
            out.append(style.colon)
            write(value[key], out, style)
        }
        out.append('}')
    }

    private fun writeText(
        text: String,
        out: StringBuilder,
        ascii: Boolean,
    ) {
        out.append('"')
        for (char in text) {
            when {
                char == '"' || char == '\\' -> out.append('\\').append(char)
                char == '\n' -> out.append("\\n")
                char == '\r' -> out.append("\\r")
                char == '\t' -> out.append("\\t")
                char == '\b' -> out.append("\\b")
                char == '\u000c' -> out.append("\\f")
                char < ' ' || (ascii && char > '~') -> out.append("\\u%04x".format(char.code))
                else -> out.append(char)
            }
        }
        out.append('"')
    }

    /** Python's `repr`: the fewest digits that read back as the same number. */
    private fun pythonFloat(value: Double): String {
        if (!value.isFinite()) {
            throw InputException("The info of a state must be finite JSON ($value); leave that value out.")
        }
        if (value == 0.0) return if (1 / value < 0) "-0.0" else "0.0"
        val exact = BigDecimal(value)
        val shortest =
            (1..MOST_DIGITS)
                .map { exact.round(MathContext(it, RoundingMode.HALF_EVEN)) }
                .first { it.toDouble() == value }
                .stripTrailingZeros()
        val digits = shortest.unscaledValue().abs().toString()
        val exponent = digits.length - 1 - shortest.scale()
        val sign = if (value < 0) "-" else ""
        if (exponent in SMALLEST_PLAIN until LARGEST_PLAIN) {
            val plain = shortest.abs().toPlainString()
            return sign + if ('.' in plain) plain else "$plain.0"
        }
        val tail = if (digits.length > 1) ".${digits.drop(1)}" else ""
        return "$sign${digits[0]}${tail}e${if (exponent < 0) "-" else "+"}${"%02d".format(kotlin.math.abs(exponent))}"
    }

    private const val MOST_DIGITS = 17
    private const val SMALLEST_PLAIN = -4
    private const val LARGEST_PLAIN = 16
}
