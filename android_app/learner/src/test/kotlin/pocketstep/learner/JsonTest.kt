package pocketstep.learner

import org.junit.Assert.assertEquals
import org.junit.Assert.assertThrows
import org.junit.Test
import java.math.BigInteger

class JsonTest {
    private fun parse(text: String) = Json.parse(text.toByteArray(), "it")

    @Test
    fun readsEveryKindOfValue() {
        val text = """ {"a": [1, -2.5, 1e3, null, true, false, "x\u00e9\ud83d\ude00\n"], "b": {}, "c": [], "d": 99999999999999999999} """
        val value = parse(text) as Map<*, *>
        assertEquals(listOf(1L, -2.5, 1000.0, null, true, false, "xé😀\n"), value["a"])
        assertEquals(BigInteger("99999999999999999999"), value["d"])
        assertEquals(listOf("a", "b", "c", "d"), value.keys.toList())
    }

    @Test
    fun refusesLoopholes() {
        val bad =
            listOf(
                "",
                "{",
                "[1,]",
                "{\"a\":1,}",
                "{'a':1}",
                "{\"a\":1,\"a\":2}",
                "NaN",
                "[Infinity]",
                "01",
                "1.",
                ".5",
                "+1",
                "\"\\ud800\"",
                "\"a\nb\"",
                "\"\\x\"",
                "\"\\u12g4\"",
                "1 2",
                "\uFEFF{}",
                "tru",
                "[".repeat(100_000),
            )
        for (text in bad) assertThrows(text.take(20), InputException::class.java) { parse(text) }
        assertThrows(InputException::class.java) { Json.parse(byteArrayOf(0x22, 0xFF.toByte(), 0x22), "it") }
    }

    @Test
    fun writesAsPythonDoes() {
        val value = linkedMapOf("b" to listOf(1, 2L, 0.1), "a" to "é\"\\\u0001\u007f😀", "c" to null, "d" to true)
        assertEquals("""{"b":[1,2,0.1],"a":"é\"\\\u0001""" + "\u007f😀\",\"c\":null,\"d\":true}", Json.compact(value))
        assertEquals(
            """{"a": "\u00e9\"\\\u0001\u007f\ud83d\ude00", "b": [1, 2, 0.1], "c": null, "d": true}""",
            Json.sorted(value),
        )
    }

    @Test
    fun writesNumbersAsPythonDoes() {
        val numbers =
            mapOf(
                0.0 to "0.0",
                -0.0 to "-0.0",
                1.0 to "1.0",
                0.1 to "0.1",
                1e-5 to "1e-05",
                1.5e-7 to "1.5e-07",
                1e16 to "1e+16",
                123456789012345680.0 to "1.2345678901234568e+17",
                1e15 to "1000000000000000.0",
                0.0001 to "0.0001",
                -2.5 to "-2.5",
                5e-324 to "5e-324",
                1.7976931348623157e308 to "1.7976931348623157e+308",
                2.0 / 3 to "0.6666666666666666",
                1e22 to "1e+22",
                9007199254740993.0 to "9007199254740992.0",
            )
        for ((number, text) in numbers) assertEquals(text, Json.compact(number))
        for (bad in listOf(Double.NaN, Double.POSITIVE_INFINITY)) {
            assertThrows(InputException::class.java) { Json.sorted(mapOf("a" to bad)) }
        }
    }

    @Test
    fun sortsByCodePoint() {
        assertEquals("{\"\\uffff\": 1, \"\\ud83d\\ude00\": 2}", Json.sorted(mapOf("😀" to 2, "\uFFFF" to 1)))
    }
}
