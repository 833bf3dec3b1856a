package pocketstep.learner

import java.io.IOException
import java.nio.ByteBuffer
import java.nio.file.Files
import java.nio.file.Path

/** A chunk file as a snapshot names it: file name, SHA-256 (64 hex digits), number of samples. */
internal data class Chunk(
    val name: String,
    val sha256: String,
    val count: Int,
) {
    /** The JSON object for `info["chunks"]`. */
    fun toInfo(): Map<String, Any> = linkedMapOf("name" to name, "sha256" to sha256, "count" to count.toLong())

    companion object {
        /** Of a snapshot's info. */
        const val KEY = "chunks"

        private val NAME = Regex("latents-([0-9a-f]{12})\\.safetensors")
        private val SHA256 = Regex("[0-9a-f]{64}")

        fun isChunk(name: String): Boolean = NAME.matches(name)

        /** Reads all of `info["chunks"]`. */
        fun listOf(info: Map<String, Any?>): List<Chunk> =
            when (val chunks = info[KEY]) {
                null -> emptyList()
                is List<*> -> chunks.map(::fromInfo).also(::checkOnce)
                else -> throw damaged()
            }

        private fun checkOnce(chunks: List<Chunk>) {
            if (chunks.map { it.name }.toSet().size != chunks.size) {
                throw StateException("The saved state names the same samples twice: it was damaged. Restore it from a copy.")
            }
        }

        private fun fromInfo(value: Any?): Chunk {
            val entry = (value as? Map<*, *>)?.takeIf { it.keys == setOf("name", "sha256", "count") } ?: throw damaged()
            val name = entry["name"]
            val sha256 = entry["sha256"]
            val count = entry["count"]
            if (name !is String || sha256 !is String || !SHA256.matches(sha256)) throw damaged()
            if (count !is Long || count !in 1..Int.MAX_VALUE) throw damaged()
            val prefix = NAME.matchEntire(name)?.groupValues?.get(1)
            if (prefix == null || !sha256.startsWith(prefix)) throw damaged()
            return Chunk(name, sha256, count.toInt())
        }

        private fun damaged() = StateException("The saved state names its samples wrongly: it was damaged. Restore it from a copy.")
    }
}

/** Samples that [ReplayStore.recover] can do without. */
private class DamagedChunkException(
    message: String,
    cause: Throwable? = null,
) : StateException(message, cause)

/**
 * The device's samples in one folder: int8 latents with labels and targets, in immutable files named after their digest.
 * What an update changes about a sample lies in the snapshot. A chunk is written before the snapshot that names it, so a
 * crash leaves the old snapshot, its chunks, and one file that [collectGarbage] removes.
 */
internal class ReplayStore(
    private val folder: Path,
    private val latentShape: List<Int>,
    private val slots: Int,
    private val maxBytes: Long,
) {
    /** Writes samples as one new chunk, to be named by the next snapshot; nothing for no samples. */
    fun append(samples: Samples): List<Chunk> {
        if (samples.size == 0) return emptyList()
        val rows = samples.where { samples.hasSoft[it] }
        val tensors =
            mapOf(
                "latents" to Tensor.of(DType.I8, samples.latents, listOf(samples.size) + latentShape),
                "labels" to Tensor.ofLongs(samples.labels),
                "has_soft" to Tensor.of(samples.hasSoft),
                "origin" to Tensor.of(DType.U8, samples.origin, listOf(samples.size)),
                "soft_rows" to Tensor.of(FloatTensor(intArrayOf(rows.size, slots), samples.select(rows).softTargets)),
            )
        val data = Safetensors.write(tensors, METADATA)
        val sha256 = sha256().digest(data).hex()
        val chunk = Chunk("latents-${sha256.take(NAME_DIGITS)}.safetensors", sha256, samples.size)
        writeAtomically(folder.resolve(chunk.name), data)
        return listOf(chunk)
    }

    /** What [recover] found: intact chunks, their samples, and a sentence for the user about each of the others. */
    class Recovered(
        val chunks: List<Chunk>,
        val samples: Samples,
        val notes: List<String>,
    )

    /**
     * Reads the samples of a snapshot, its chunks in its order; does without chunks that are missing or damaged.
     *
     * @throws StateException if a chunk is there and may not be read, was written by another version of pocketstep or
     * for another bundle, or the flags don't belong to the chunks.
     */
    fun recover(
        chunks: List<Chunk>,
        tensors: Map<String, Tensor>,
    ): Recovered {
        val count = chunks.sumOf { it.count }
        val pending = flag(tensors, Samples.PENDING, count)
        val heldBack = flag(tensors, Samples.HELD_BACK, count)
        val intact = ArrayList<Chunk>()
        val parts = ArrayList<Samples>()
        val notes = ArrayList<String>()
        var start = 0
        for (chunk in chunks) {
            val end = start + chunk.count
            try {
                parts.add(loadChunk(chunk, heldBack.copyOfRange(start, end), pending.copyOfRange(start, end)))
                intact.add(chunk)
            } catch (problem: DamagedChunkException) {
                if (mayBeIntact(problem)) throw problem // it may be intact: not given up
                notes.add("${problem.message} ${chunk.count} samples are gone; what was learned from them stays.")
            }
            start = end
        }
        return Recovered(intact, Samples.join(latentShape, slots, parts), notes)
    }

    /** Whether chunks take more than the limit on the disk, so that [compact] is due. */
    fun overLimit(chunks: List<Chunk>): Boolean =
        try {
            chunks.sumOf { Files.size(folder.resolve(it.name)) } > maxBytes
        } catch (reason: IOException) {
            throw StateException(
                "Samples in $folder can't be read (${reasonOf(reason)}). Restore the folder from a copy.",
                reason,
            )
        }

    /**
     * Keeps what fits into three quarters of the limit and writes it as one new chunk. Classes get equal shares as far
     * as they have samples, so that one that floods the store displaces no other; within a class pending samples stay
     * first, with the share of held-back samples unchanged. The rest is a reservoir: of all that was ever observed of a
     * class the samples with the lowest lots stay, and a sample's lot is part of its latent's digest.
     *
     * @return the new chunks and the samples that are kept, in their old order.
     */
    fun compact(samples: Samples): Pair<List<Chunk>, Samples> {
        var bytes = OVERHEAD
        val chosen =
            byPriority(samples).takeWhile {
                bytes += bytesOf(samples.hasSoft[it])
                bytes <= ROOM * maxBytes
            }
        if (samples.size > 0 && chosen.isEmpty()) {
            throw StateException("$maxBytes bytes have no room for a sample. Raise the limit of the samples.")
        }
        val kept = samples.select(chosen.sorted().toIntArray())
        return append(kept) to kept
    }

    /** Removes chunks that no snapshot needs: pass those of every snapshot that is kept. */
    fun collectGarbage(inUse: List<Chunk>) {
        val used = inUse.map { it.name }.toSet()
        removeLeftovers(folder)
        try {
            Files.newDirectoryStream(folder, "latents-*.safetensors").use { found ->
                found.filter { Chunk.isChunk(it.fileName.toString()) && it.fileName.toString() !in used }.forEach(::deleteQuietly)
            }
        } catch (_: IOException) {
            return // the next call tries again
        }
    }

    private fun flag(
        tensors: Map<String, Tensor>,
        name: String,
        count: Int,
    ): BooleanArray {
        val tensor = tensors[name]
        if (tensor == null && count == 0) return BooleanArray(0)
        if (tensor == null || tensor.dtype != DType.BOOL || tensor.shape != listOf(count.toLong())) {
            throw StateException("The saved state's flags are not for its $count samples. Restore it from a copy.")
        }
        return tensor.toBooleans()
    }

    /** Bytes of a sample in a chunk: latent, label, two flags, and its soft targets if it has any. */
    private fun bytesOf(hasSoft: Boolean): Long =
        latentShape.fold(1L) { product, it -> product * it } + FIXED_BYTES + if (hasSoft) 4L * slots else 0L

    private fun loadChunk(
        chunk: Chunk,
        heldBack: BooleanArray,
        pending: BooleanArray,
    ): Samples {
        val path = folder.resolve(chunk.name)
        val what = "The samples in $path"
        val data = readRegular(path, chunk.count * bytesOf(true) + OVERHEAD, what, ::DamagedChunkException)
        if (sha256().digest(data).hex() != chunk.sha256) {
            throw DamagedChunkException("$what are damaged: their digest differs. Restore the folder from a copy.")
        }
        val file = Safetensors.read(data, what, asState)
        if (file.metadata != METADATA) {
            throw StateException("$what were written by another version of pocketstep. Update pocketstep-device.")
        }
        val found = file.tensors["labels"]?.size
        if (found != null && found != chunk.count) {
            throw StateException("$what are $found, not ${chunk.count}. Restore the folder from a copy.")
        }
        return unpack(file.tensors, heldBack, pending, what)
    }

    private fun unpack(
        tensors: Map<String, Tensor>,
        heldBack: BooleanArray,
        pending: BooleanArray,
        what: String,
    ): Samples {
        val count = heldBack.size
        val hasSoft = tensors["has_soft"]?.takeIf { it.dtype == DType.BOOL }?.toBooleans() ?: BooleanArray(0)
        val layout =
            mapOf(
                "latents" to (DType.I8 to listOf(count) + latentShape),
                "labels" to (DType.I64 to listOf(count)),
                "has_soft" to (DType.BOOL to listOf(count)),
                "origin" to (DType.U8 to listOf(count)),
                "soft_rows" to (DType.F32 to listOf(hasSoft.count { it }, slots)),
            )
        val fits =
            tensors.keys == layout.keys &&
                layout.all { (name, expected) ->
                    val tensor = tensors.getValue(name)
                    tensor.dtype == expected.first && tensor.shape == expected.second.map { it.toLong() }
                }
        try {
            if (!fits) throw InputException("Its tensors are not those of samples.")
            val rows = tensors.getValue("soft_rows").toFloats().data
            val soft = FloatArray(count * slots)
            var row = 0
            hasSoft.forEachIndexed { index, has -> if (has) rows.copyInto(soft, index * slots, row * slots, ++row * slots) }
            return Samples(
                latentShape,
                slots,
                tensors.getValue("latents").toBytes(),
                tensors.getValue("labels").toInts(),
                soft,
                hasSoft,
                heldBack,
                tensors.getValue("origin").toBytes(),
                pending,
            )
        } catch (reason: InputException) {
            throw StateException("$what don't fit the bundle (${reason.message}). Restore the folder from a copy.", reason)
        }
    }

    private companion object {
        val METADATA = mapOf("format" to "pocketstep-latents", "version" to "1")
        const val OVERHEAD = 4096L // bytes that a chunk's header can take
        const val ROOM = 0.75 // share of the limit that a compaction fills, so that the next append fits
        const val FIXED_BYTES = 10L
        const val NAME_DIGITS = 12
    }
}

/** Indices of all samples, the ones to keep first: rank by rank in every class, pending ones before others. */
private fun byPriority(samples: Samples): List<Int> {
    val lots = LongArray(samples.size) { lot(samples.latent(it)) }
    val ranks = IntArray(samples.size)
    for (label in samples.labels.toSortedSet()) {
        val members = samples.where { samples.labels[it] == label }
        val spread = spread(members, samples.heldBack, lots)
        members
            .sortedWith(compareBy({ !samples.pending[it] }, { spread.getValue(it) }))
            .forEachIndexed { rank, index -> ranks[index] = rank }
    }
    return (0 until samples.size).sortedWith(compareBy({ ranks[it] }, { !samples.pending[it] }, { lots[it] }))
}

/** The lower, the longer the sample is kept: the first eight bytes of its latent's SHA-256, so shifted that signed ones compare. */
private fun lot(latent: ByteBuffer): Long = ByteBuffer.wrap(sha256().apply { update(latent) }.digest()).long xor Long.MIN_VALUE

/** A place in 0 to 1 for each sample of a class, by lot, so that any prefix has its share held back. */
private fun spread(
    members: IntArray,
    heldBack: BooleanArray,
    lots: LongArray,
): Map<Int, Double> {
    val places = HashMap<Int, Double>()
    for (group in listOf(members.filter { heldBack[it] }, members.filterNot { heldBack[it] })) {
        group.sortedBy { lots[it] }.forEachIndexed { rank, member -> places[member] = (rank + 0.5) / group.size }
    }
    return places
}
