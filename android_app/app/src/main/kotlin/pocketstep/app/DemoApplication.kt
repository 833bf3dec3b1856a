package pocketstep.app

import android.app.Application
import kotlinx.coroutines.MainScope

/** Holds what outlives a rotation. */
class DemoApplication : Application() {
    /** Tests replace it before the first screen. */
    var source: LearnerSource = AssetSource(this)

    /** Seconds after which an update, that somebody waits for, takes what it has. */
    var patience = 60.0

    val session: Session by lazy {
        Session(source, Gauge(this, source.state), WhileCharging(this), MainScope(), patience)
    }
}
