package pocketstep.app

import android.content.Context
import android.content.res.Configuration
import android.widget.Button
import android.widget.ImageButton
import android.widget.ImageView
import android.widget.ProgressBar
import org.junit.Assert.assertEquals
import org.junit.Assert.assertNotEquals
import org.junit.Assert.assertTrue
import org.junit.Test
import java.util.Locale

/** Both languages, and what a screen reader is told. */
class WordsTest : AppScene() {
    private fun inLanguage(tag: String): Context {
        val configuration = Configuration(app.resources.configuration).apply { setLocale(Locale.forLanguageTag(tag)) }
        return app.createConfigurationContext(configuration)
    }

    /** The framework falls back silently, so that each text is compared; a few are alike. */
    @Test
    fun everyTextIsInBothLanguages() {
        val alike = setOf("app_name", "guess", "lesson_change", "seconds", "facts_line")
        val (english, german) = inLanguage("en") to inLanguage("de")
        val texts = R.string::class.java.fields.associate { it.name to it.getInt(null) }
        assertTrue(texts.size > 70)
        for ((name, id) in texts) {
            if (name in alike || app.resources.getResourcePackageName(id) != app.packageName || !isOurs(name)) continue
            assertNotEquals(name, english.getString(id), german.getString(id))
            assertEquals(name, holes(english.getString(id)), holes(german.getString(id)))
        }
        for (plural in R.plurals::class.java.fields) {
            for (count in listOf(1, 3)) {
                val id = plural.getInt(null)
                val (here, there) = listOf(english, german).map { it.resources.getQuantityString(id, count, count) }
                assertNotEquals(plural.name, here, there)
            }
        }
    }

    private fun holes(text: String) = Regex("%\\d\\$[sd]").findAll(text).map { it.value }.sorted().toList()

    /** Resources of libraries are merged into the app's. */
    private fun isOurs(name: String) = name !in LIBRARIES && !name.startsWith("call_notification")

    @Test
    fun numbersAreWrittenAsTheLanguageDoes() {
        val (english, german) = Wording(inLanguage("en")) to Wording(inLanguage("de"))
        assertEquals(listOf("97%", "97\u00a0%"), listOf(english, german).map { it.percent(0.97) })
        assertEquals(listOf("1.5 s", "1,5 s"), listOf(english, german).map { it.seconds(1.52) })
        assertEquals("not measured", english.percent(Double.NaN))
        assertEquals("Battery: 1.2 mAh.", english.charge(1234))
        assertEquals("Akku: weniger, als sich messen lässt.", german.charge(0))
        assertEquals("Battery use can’t be measured here.", english.charge(null))
    }

    /** Nothing that can be touched or tells something is silent. */
    @Test
    fun everyControlIsNamed() {
        val activity = startReady().get()
        session.show(Digits.all().first())
        until { ui.guesses.isNotEmpty() }
        for (prepare in listOf({ }, { session.teach() }, { session.add(Digits.nines(3)) })) {
            prepare()
            until { true }
            val seen = activity.findViewById<android.view.View>(R.id.page).seen().toList()
            for (view in seen) {
                val isSilent = view.importantForAccessibility == android.view.View.IMPORTANT_FOR_ACCESSIBILITY_NO
                when (view) {
                    is ImageButton, is ImageView -> assertTrue("$view", isSilent || !view.contentDescription.isNullOrBlank())
                    is Button -> assertTrue("$view", view.text.isNotBlank())
                    is ProgressBar -> assertTrue("$view", isSilent)
                }
                if (view is ImageButton || view is Button) {
                    assertTrue("$view is ${view.height} high", view.height >= 48 * view.resources.displayMetrics.density)
                }
            }
        }
    }

    @Test
    fun changesAreAnnounced() {
        val activity = startReady().get()
        for (id in listOf(R.id.watch_top, R.id.notice_text, R.id.teach_count, R.id.lesson_title, R.id.learning_title)) {
            val region = activity.findViewById<android.view.View>(id).accessibilityLiveRegion
            assertEquals(android.view.View.ACCESSIBILITY_LIVE_REGION_POLITE, region)
        }
    }

    private companion object {
        val LIBRARIES = setOf("androidx_startup", "status_bar_notification_info_overflow")
    }
}
