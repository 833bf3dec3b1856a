package pocketstep.learner

import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertThrows
import org.junit.Assert.assertTrue
import org.junit.Rule
import org.junit.Test
import org.junit.rules.TemporaryFolder
import java.nio.file.Files
import java.nio.file.Paths
import java.security.KeyPairGenerator
import java.security.Signature

class TrustTest {
    @get:Rule
    val temporary = TemporaryFolder()

    private val where = Paths.get("a.bundle")

    private fun bytes(hex: String) = hex.chunked(2).map { it.toInt(16).toByte() }.toByteArray()

    /** RFC 8032, section 7.1, tests 1 and 2. */
    @Test
    fun publishedSignatures() {
        val key1 = bytes("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
        val sig1 =
            bytes(
                "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155" +
                    "5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b",
            )
        val key2 = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
        val sig2 =
            bytes(
                "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da" +
                    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
            )
        assertTrue(Ed25519.verify(key1, sig1, ByteArray(0)))
        assertTrue(Ed25519.verify(key2, sig2, byteArrayOf(0x72)))
        assertFalse(Ed25519.verify(key2, sig2, byteArrayOf(0x73)))
        assertFalse(Ed25519.verify(key1, sig2, byteArrayOf(0x72)))
        for (bit in 0 until 512 step 37) {
            val changed = sig2.copyOf().also { it[bit / 8] = (it[bit / 8].toInt() xor (1 shl bit % 8)).toByte() }
            assertFalse(Ed25519.verify(key2, changed, byteArrayOf(0x72)))
        }
    }

    /** The platform's own implementation signs; ours verifies. */
    @Test
    fun signaturesOfAnotherImplementation() {
        repeat(5) { round ->
            val pair = KeyPairGenerator.getInstance("Ed25519").generateKeyPair()
            val key = pair.public.encoded.takeLast(32).toByteArray()
            val message = ByteArray(100 * round) { it.toByte() }
            val signer = Signature.getInstance("Ed25519").apply { initSign(pair.private) }
            val signature = signer.apply { update(message) }.sign()
            assertEquals(key.hex(), checkSignature(message, signature, listOf("0".repeat(62) + "03", key.hex()).drop(1), where))
            assertThrows(BundleException::class.java) { checkSignature(message + 1, signature, listOf(key.hex()), where) }
            assertThrows(BundleException::class.java) { checkSignature(message, null, listOf(key.hex()), where) }
        }
    }

    /** Points of small order, for which anybody can forge, and what is no key at all. */
    @Test
    fun unusableKeys() {
        val small = listOf("0".repeat(64), "01" + "0".repeat(62), "ec" + "ff".repeat(30) + "7f", "ff".repeat(32))
        for (key in small + listOf("", "zz".repeat(32), "00".repeat(31))) {
            assertThrows(key, InputException::class.java) { parseKey(key) }
        }
        assertThrows(InputException::class.java) { checkSignature(ByteArray(1), ByteArray(64), emptyList(), where) }
    }

    @Test
    fun releasesOnlyGoUp() {
        val floor = ReleaseFloor(temporary.root.toPath())
        floor.keep(0)
        assertEquals(0, temporary.root.list()!!.size)
        floor.keep(7)
        floor.check(7, "mugs")
        assertThrows(BundleException::class.java) { floor.check(6, "mugs") }
        floor.keep(3)
        assertThrows(BundleException::class.java) { floor.check(6, "mugs") }
        val file = temporary.root.toPath().resolve("release.json")
        Files.write(file, String(Files.readAllBytes(file)).replace("7", "1").toByteArray())
        assertThrows(StateException::class.java) { floor.check(9, "mugs") }
    }
}
