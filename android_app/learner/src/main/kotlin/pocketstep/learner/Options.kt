package pocketstep.learner

/**
 * How a learner is opened.
 *
 * @property threads CPU threads.
 * @property storeMb most MiB of stored latents.
 */
public class Options
    @JvmOverloads
    constructor(
        public val threads: Int = 2,
        public val storeMb: Double = 64.0,
    ) {
        internal val storeBytes: Long get() = (storeMb * MIB).toLong()

        private companion object {
            const val MIB = 1024.0 * 1024.0
        }
    }
