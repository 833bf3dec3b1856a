package pocketstep.learner

import java.math.BigInteger

internal class JsonSyntax(
    message: String,
) : Exception(message)

/** Reads one JSON document; everything that Python's strict parser refuses is refused. */
internal class JsonReader(
    private val text: String,
) {
    private var at = 0
    private var depth = 0

    fun document(): Any? {
        val value = value()
        space()
        if (at != text.length) fail("something follows the value")
        return value
    }

    private fun value(): Any? {
        space()
        if (++depth > DEEPEST) fail("it is nested too deeply")
        val result =
            when (peek()) {
                '{' -> objectValue()
                '[' -> list()
                '"' -> string()
                't' -> word("true", true)
                'f' -> word("false", false)
                'n' -> word("null", null)
                else -> number()
            }
        depth--
        return result
    }

    private fun objectValue(): Map<String, Any?> {
        val result = LinkedHashMap<String, Any?>()
        at++
        space()
        if (peek() == '}') {
            at++
            return result
        }
        while (true) {
            space()
            if (peek() != '"') fail("a key in quotes was expected")
            val key = string()
            space()
            take(':')
            if (result.containsKey(key)) fail("a key occurs twice in one object")
            result[key] = value()
            space()
            if (next() == '}') return result
            at--
            take(',')
        }
    }

    private fun list(): List<Any?> {
        val result = ArrayList<Any?>()
        at++
        space()
        if (peek() == ']') {
            at++
            return result
        }
        while (true) {
            result.add(value())
            space()
            if (next() == ']') return result
            at--
            take(',')
        }
    }

    private fun string(): String {
        val result = StringBuilder()
        at++
        while (true) {
            val char = next()
            when {
                char == '"' -> break
                char == '\\' -> result.append(escape())
                char < ' ' -> fail("a text holds a control character")
                else -> result.append(char)
            }
        }
        if (encodeUtf8(result.toString()) == null) fail("a text holds a lone surrogate")
        return result.toString()
    }

    private fun escape(): Char {
        val char = next()
        if (char == 'u') {
            if (at + HEX > text.length) fail("an escape is cut")
            val digits = text.substring(at, at + HEX)
            if (!digits.all { it in '0'..'9' || it in 'a'..'f' || it in 'A'..'F' }) fail("an escape is wrong")
            at += HEX
            return digits.toInt(radix = 16).toChar()
        }
        return ESCAPES[char] ?: fail("an escape is wrong")
    }

    private fun number(): Any {
        val match = NUMBER.find(text, at)?.takeIf { it.range.first == at } ?: fail("a value was expected")
        at = match.range.last + 1
        if (match.groupValues[1].isNotEmpty()) return match.value.toDouble()
        if (match.value.length > LONGEST_NUMBER) fail("a number has too many digits")
        return match.value.toLongOrNull() ?: BigInteger(match.value)
    }

    private fun word(
        word: String,
        value: Boolean?,
    ): Boolean? {
        if (!text.startsWith(word, at)) fail("a value was expected")
        at += word.length
        return value
    }

    private fun space() {
        while (at < text.length && text[at] in " \t\n\r") at++
    }

    private fun peek(): Char = if (at < text.length) text[at] else fail("it ends too early")

    private fun next(): Char = peek().also { at++ }

    private fun take(char: Char) {
        if (next() != char) fail("'$char' was expected")
    }

    private fun fail(problem: String): Nothing = throw JsonSyntax("$problem, character $at")

    private companion object {
        const val DEEPEST = 200
        const val HEX = 4
        const val LONGEST_NUMBER = 4300
        val NUMBER = Regex("-?(?:0|[1-9][0-9]*)((?:\\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)")
        val ESCAPES =
            mapOf('"' to '"', '\\' to '\\', '/' to '/', 'b' to '\b', 'f' to '\u000c', 'n' to '\n', 'r' to '\r', 't' to '\t')
    }
}
