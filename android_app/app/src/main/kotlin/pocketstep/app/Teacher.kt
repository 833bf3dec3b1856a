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

/** Teaches a learner: keeps the pictures, then lets it practise. */
class Teacher(
    private val gauge: Gauge,
    private val patience: Double,
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

    /** An update with all that waits; [show] hears of its steps. */
    suspend fun practise(
        learner: Learner,
        name: String,
        show: (Mode.Learning) -> Unit,
    ): Lesson =
        coroutineScope {
            ensureActive()
            show(Mode.Learning(name))
            val steps = launch { learner.progress.conflate().collect { show(Mode.Learning(name, it)) } }
            try {
                val before = withContext(Dispatchers.IO) { gauge.read() }
                val report = learner.update(Budget(seconds = patience, power = gauge::power))
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
