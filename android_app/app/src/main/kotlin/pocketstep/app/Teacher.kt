package pocketstep.app

import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.coroutineScope
import kotlinx.coroutines.ensureActive
import kotlinx.coroutines.flow.conflate
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import pocketstep.learner.Budget
import pocketstep.learner.Learner
import pocketstep.learner.Pictures

/**
 * How an update is made that somebody waits for.
 *
 * @property seconds after which it takes what it has.
 * @property method one of the bundle's.
 */
class Practice(
    val seconds: Double = 60.0,
    val method: String = "auto",
)

/** Teaches a learner: keeps the pictures, then lets it practise. */
class Teacher(
    private val gauge: Gauge,
    private val practice: Practice,
) {
    /**
     * Stores the pictures under their name, which becomes a class where it is none.
     *
     * @return false if it holds all of them already.
     * @throws NoPlaceException if there is no free slot for a new class.
     */
    suspend fun keep(
        learner: Learner,
        teaching: Mode.Teaching,
    ): Boolean {
        val name = teaching.name.trim()
        val images = withContext(Dispatchers.Default) { Pictures.of(teaching.shots, learner.manifest.task.input) }
        val status = learner.status()
        if (name !in status.classes) {
            if (status.freeSlots == 0) throw NoPlaceException()
            learner.addClass(name)
        }
        return learner.observe(images, name) > 0
    }

    /** What storage and battery say now. */
    suspend fun read(): Gauge.Reading = withContext(Dispatchers.IO) { gauge.read() }

    /** An update with all that waits, whose cost counts from [before]; [show] hears of its steps. */
    suspend fun practise(
        learner: Learner,
        name: String,
        before: Gauge.Reading,
        show: (Mode.Learning) -> Unit,
    ): Lesson =
        coroutineScope {
            ensureActive()
            show(Mode.Learning(name))
            val steps = launch { learner.progress.conflate().collect { show(Mode.Learning(name, it)) } }
            try {
                val report = learner.update(Budget(practice.seconds, power = gauge::power), practice.method)
                val cost = withContext(Dispatchers.IO) { gauge.since(before) }
                val (old, new) = report.oldAccuracy to report.newAccuracy
                Lesson(name, report.accepted, report.oldBefore, old, new, report.seconds, cost)
            } finally {
                steps.cancel()
            }
        }

    companion object {
        /** Below this number of pictures, a class is guesswork. */
        const val FEWEST_SHOTS = 3

        /** What is asked for. */
        const val GOOD_SHOTS = 8
        const val MOST_SHOTS = 40
    }
}
