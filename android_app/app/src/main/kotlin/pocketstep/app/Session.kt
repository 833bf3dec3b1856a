package pocketstep.app

import android.graphics.Bitmap
import kotlinx.coroutines.CancellationException
import kotlinx.coroutines.CoroutineScope
import kotlinx.coroutines.Dispatchers
import kotlinx.coroutines.Job
import kotlinx.coroutines.NonCancellable
import kotlinx.coroutines.flow.MutableStateFlow
import kotlinx.coroutines.flow.StateFlow
import kotlinx.coroutines.flow.asStateFlow
import kotlinx.coroutines.flow.update
import kotlinx.coroutines.launch
import kotlinx.coroutines.withContext
import pocketstep.learner.Learner

/**
 * What the screen shows and what its buttons do. It outlives the screen: a rotation, or another app for a while.
 *
 * Call it on the main thread, where [scope] runs too.
 */
class Session(
    source: LearnerSource,
    private val gauge: Gauge,
    private val charging: WhileCharging,
    private val scope: CoroutineScope,
    practice: Practice,
) {
    private val state = MutableStateFlow(UiState())
    private val door = Door(source)
    private val watcher = Watcher()
    private val teacher = Teacher(gauge, practice)
    private var looking: Job? = null
    private var learning: Job? = null
    private var isSeen = false

    val ui: StateFlow<UiState> = state.asStateFlow()

    /** The screen is seen. */
    fun enter() {
        isSeen = true
        scope.launch {
            try {
                val learner = door.open()
                tell(learner)
                state.update { it.copy(opening = Opening.Ready) }
                state.value.picture?.let { look(it, isLive = false) }
            } catch (reason: CancellationException) {
                throw reason
            } catch (reason: Exception) {
                val notice = noticeOf(reason)
                state.update { it.copy(opening = Opening.Failed(notice.problem, notice.detail)) }
            }
        }
    }

    /** The screen is gone; what learns goes on, and then others may have the state. */
    fun leave() {
        isSeen = false
        scope.launch {
            learning?.join()
            if (!isSeen) door.close()
        }
    }

    /** A picture of the camera, upright; left out while another one is looked at. */
    fun look(frame: Bitmap) {
        if (state.value.picture == null && looking?.isActive != true) look(frame, isLive = true)
    }

    /** A picture of the gallery instead of the camera, or the camera again. */
    fun show(picture: Bitmap?) {
        watcher.forget()
        state.update { it.copy(picture = picture, guesses = emptyList()) }
        if (picture != null) look(picture, isLive = false)
    }

    fun teach() = state.update { it.copy(mode = Mode.Teaching(), notice = null) }

    fun rename(name: String) = teaching { it.copy(name = name) }

    /** Pictures of the new thing, upright. */
    fun add(shots: List<Bitmap>) = teaching { it.copy(shots = (it.shots + shots).take(Teacher.MOST_SHOTS)) }

    fun remove(shot: Bitmap) = teaching { it.copy(shots = it.shots - shot) }

    fun watch() = state.update { it.copy(mode = Mode.Watching) }

    /** Keeps the pictures, and learns them now or while charging. */
    fun learn() {
        val teaching = state.value.mode as? Mode.Teaching ?: return
        busy(teaching) { learner ->
            state.update { it.copy(mode = Mode.Learning(teaching.name.trim())) }
            val before = teacher.read()
            // Stopping ends the update, but what was shown is kept.
            if (!withContext(NonCancellable) { teacher.keep(learner, teaching) }) {
                state.update { it.copy(mode = teaching, notice = Notice(Problem.SAME_PICTURES)) }
            } else if (charging.isOn) {
                charging.request()
                state.update { it.copy(mode = Mode.Watching, notice = Notice(Problem.KEPT)) }
            } else {
                practise(learner, teaching.name.trim(), before)
            }
        }
    }

    /** Learns what waits. */
    fun learnWaiting() = busy(Mode.Watching) { practise(it, "", teacher.read()) }

    /** Ends an update; it has changed nothing then. */
    fun stop() {
        learning?.cancel()
        state.update { it.copy(mode = Mode.Watching, notice = Notice(Problem.STOPPED)) }
        scope.launch {
            learning?.join()
            door.learner?.let { tell(it) }
        }
    }

    /** Takes the last lesson back. */
    fun undo() =
        busy(Mode.Watching) {
            it.rollback()
            state.update { ui -> ui.copy(mode = Mode.Watching, notice = Notice(Problem.UNDONE)) }
        }

    /** Takes a class out, with its pictures. */
    fun forget(name: String) =
        busy(Mode.Watching) {
            it.forget(name)
            state.update { ui -> ui.copy(notice = Notice(Problem.FORGOTTEN)) }
        }

    fun learnWhileCharging(on: Boolean) {
        charging.isOn = on
        if (state.value.facts.waiting > 0) charging.request()
        state.update { it.copy(facts = it.facts.copy(whileCharging = on)) }
    }

    fun complain(reason: Throwable) = state.update { it.copy(notice = noticeOf(reason)) }

    fun complain(problem: Problem) = state.update { it.copy(notice = Notice(problem)) }

    fun dismiss() = state.update { it.copy(notice = null) }

    private suspend fun practise(
        learner: Learner,
        name: String,
        before: Gauge.Reading,
    ) {
        val lesson = teacher.practise(learner, name, before) { state.update { ui -> ui.copy(mode = it) } }
        watcher.forget()
        state.update { it.copy(mode = Mode.Learned(lesson)) }
    }

    /** One change of what is known at a time; a failure leads [back] and is told. */
    private fun busy(
        back: Mode,
        change: suspend (Learner) -> Unit,
    ) {
        val learner = door.learner ?: return
        if (learning?.isActive == true) return
        learning =
            scope.launch {
                try {
                    change(learner)
                } catch (reason: CancellationException) {
                    throw reason
                } catch (reason: Exception) {
                    state.update { it.copy(mode = back, notice = noticeOf(reason)) }
                }
                tell(learner)
                state.value.picture?.let { look(it, isLive = false) }
            }
    }

    private fun look(
        picture: Bitmap,
        isLive: Boolean,
    ) {
        val learner = door.learner ?: return
        if (state.value.mode is Mode.Learning) return
        looking =
            scope.launch {
                try {
                    val guesses = watcher.look(learner, picture, isLive)
                    state.update { if (isLive && it.picture != null) it else it.copy(guesses = guesses) }
                } catch (reason: CancellationException) {
                    throw reason
                } catch (reason: Exception) {
                    if (isSeen) state.update { it.copy(notice = Notice(Problem.OTHER, reason.message.orEmpty())) }
                }
            }
    }

    private suspend fun tell(learner: Learner) {
        val status = learner.status()
        val bytes = withContext(Dispatchers.IO) { gauge.bytes() }
        val facts =
            Facts(
                known = status.classes - status.notYetLearned.toSet(),
                taught = status.storedSamples.filterValues { it > 0 },
                freePlaces = status.freeSlots,
                waiting = status.pendingSamples,
                canUndo = status.canRollBack,
                bytes = bytes,
                whileCharging = charging.isOn,
            )
        state.update { it.copy(facts = facts) }
    }

    private fun teaching(change: (Mode.Teaching) -> Mode.Teaching) =
        state.update { ui -> (ui.mode as? Mode.Teaching)?.let { ui.copy(mode = change(it)) } ?: ui }
}
