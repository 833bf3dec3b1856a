package pocketstep.learner

/**
 * How a learner is opened.
 *
 * @property threads CPU threads.
 * @property storeMb most MiB of stored latents.
 * @property trustedKeys ed25519 public keys, 64 hex digits each: only bundles that one of them signed are opened. Null
 * opens unsigned ones too.
 */
public class Options
    @JvmOverloads
    constructor(
        public val threads: Int = 2,
        public val storeMb: Double = 64.0,
        public val trustedKeys: List<String>? = null,
    ) {
        internal val storeBytes: Long get() = (storeMb * MIB).toLong()

        private companion object {
            const val MIB = 1024.0 * 1024.0
        }
    }
