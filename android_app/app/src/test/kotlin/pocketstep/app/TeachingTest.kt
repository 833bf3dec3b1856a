package pocketstep.app

import android.view.View
import android.widget.Button
import android.widget.EditText
import androidx.work.WorkManager
import androidx.work.testing.WorkManagerTestInitHelper
import org.junit.Assert.assertEquals
import org.junit.Assert.assertFalse
import org.junit.Assert.assertNull
import org.junit.Assert.assertSame
import org.junit.Assert.assertTrue
import org.junit.Before
import org.junit.Test

/** Seeing, teaching, before and after, undo: by the buttons, with the real learner. */
class TeachingTest : AppScene() {
    @Before
    fun prepareWork() = WorkManagerTestInitHelper.initializeTestWorkManager(app)

    @Test
    fun aNewThingIsTaughtSeenAndTakenBack() {
        val activity = startReady().get()
        val nine = Digits.nines(40).last()
        session.show(nine)
        until { ui.guesses.isNotEmpty() }
        assertTrue(ui.guesses.none { it.name == "9" })

        activity.findViewById<View>(R.id.teach_button).performClick()
        until { activity.findViewById<View>(R.id.teach).visibility == View.VISIBLE }
        val learn = activity.findViewById<Button>(R.id.learn)
        assertFalse(learn.isEnabled)
        activity.findViewById<EditText>(R.id.teach_name).setText("9")
        session.add(Digits.nines(30))
        until { learn.isEnabled }
        learn.performClick()
        until { ui.mode is Mode.Learned }

        val lesson = (ui.mode as Mode.Learned).lesson
        assertTrue(lesson.accepted)
        assertTrue("old ${lesson.oldBefore} -> ${lesson.oldAfter}", lesson.oldAfter > 0.9)
        assertTrue("new ${lesson.newAfter}", lesson.newAfter > 0.5)
        assertTrue("bytes ${lesson.cost.bytes}", lesson.cost.bytes > 0)
        until { ui.guesses.firstOrNull()?.name == "9" }
        until { ui.facts.canUndo }
        val text = activity.findViewById<View>(R.id.page).text()
        assertTrue(text, "Learned “9”" in text && "→" in text)

        activity.findViewById<View>(R.id.lesson_undo).performClick()
        until { ui.notice?.problem == Problem.UNDONE && ui.guesses.none { it.name == "9" } }
        until { ui.facts.waiting == 30 }
        assertFalse(ui.facts.canUndo)
        assertEquals(Mode.Watching, ui.mode)
    }

    @Test
    fun aRotationKeepsAllOfIt() {
        val controller = startReady()
        session.show(Digits.all().first())
        session.teach()
        controller.get().findViewById<EditText>(R.id.teach_name).setText("blue mug")
        session.add(Digits.nines(2))
        until { ui.guesses.isNotEmpty() }
        val (before, learner) = ui to session
        controller.recreate()
        until { controller.get().findViewById<EditText>(R.id.teach_name).text.toString() == "blue mug" }
        assertSame(learner, app.session)
        assertEquals(before.mode, ui.mode)
        assertEquals(before.picture, ui.picture)
        assertEquals(Opening.Ready, ui.opening)
    }

    @Test
    fun whatIsTooLittleOrKnownIsSaid() {
        val activity = startReady().get()
        session.teach()
        session.add(Digits.nines(2))
        until { "One more picture is needed." in activity.findViewById<View>(R.id.page).text() }
        session.add(Digits.nines(3))
        until { "Give it a name." in activity.findViewById<View>(R.id.page).text() }
        session.remove((ui.mode as Mode.Teaching).shots.first())
        assertEquals(4, (ui.mode as Mode.Teaching).shots.size)

        app.session.learnWhileCharging(true)
        session.rename("9")
        session.learn()
        until { ui.notice?.problem == Problem.KEPT && ui.facts.waiting == 3 } // one picture came twice
        assertEquals(1, WorkManager.getInstance(app).getWorkInfosForUniqueWork("pocketstep-update").get().size)
        app.session.learnWhileCharging(false)
        session.teach()
        session.rename("9")
        session.add(Digits.nines(3))
        session.learn()
        until { ui.notice?.problem == Problem.SAME_PICTURES }
        assertEquals(3, (ui.mode as Mode.Teaching).shots.size)
    }

    @Test
    fun stoppingChangesNothingAndThePicturesWait() {
        startReady()
        session.teach()
        session.rename("9")
        session.add(Digits.nines(20))
        session.learn()
        until { ui.mode is Mode.Learning }
        session.stop()
        until { ui.facts.waiting == 20 }
        assertEquals(Problem.STOPPED, ui.notice?.problem)
        assertEquals(Mode.Watching, ui.mode)
        assertFalse("9" in ui.facts.known)
        session.forget("9")
        until { ui.notice?.problem == Problem.FORGOTTEN && ui.facts.waiting == 0 }
    }

    @Test
    fun placesRunOut() {
        startReady()
        for (name in listOf("a", "b", "c", "d")) {
            session.learnWhileCharging(true)
            session.teach()
            session.rename(name)
            session.add(Digits.nines(4))
            session.learn()
            until { ui.mode !is Mode.Learning && ui.notice != null }
        }
        assertEquals(Problem.NO_PLACE, ui.notice?.problem)
        assertEquals("d", (ui.mode as Mode.Teaching).name) // nothing that was typed or shown is lost
        session.dismiss()
        assertNull(ui.notice)
    }
}
