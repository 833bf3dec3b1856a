package pocketstep.app

import android.app.Application
import kotlinx.coroutines.MainScope

/** Holds what outlives a rotation. */
class DemoApplication : Application() {
    /** Tests replace it before the first screen. */
    var source: LearnerSource = AssetSource(this)

    /** Tests, where a step takes long, replace it too. */
    var practice = Practice()

    val session: Session by lazy {
        Session(source, Gauge(this, source.state), WhileCharging(this), MainScope(), practice)
    }
}
