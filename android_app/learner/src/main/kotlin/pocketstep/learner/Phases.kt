package pocketstep.learner

/** The kinds of phases that a schedule can list; a new kind is a branch of [run] and a function. */
internal class Phases(
    private val machine: Machine,
    private val samples: Samples,
    private val trainer: Trainer,
) {
    private val closedForm = ClosedForm(machine)

    fun run(
        phase: Phase,
        values: Values,
    ): Outcome =
        when (phase.kind) {
            SOLVE -> Outcome(solve(phase, values))

            "train" -> trainer.run(phase, values)

            else -> throw BundleException(
                "the schedule has a phase of kind '${phase.kind}', which this version does not know",
            )
        }

    /** The closed-form head; with `refresh`, from statistics of `rows` (all, new) as their features are now. */
    private fun solve(
        phase: Phase,
        values: Values,
    ): Values {
        var current = values
        if (phase.refresh) {
            val all = phase.rowsOr("all") == "all"
            val rows = samples.where { !samples.heldBack[it] && (samples.pending[it] || all) }
            current = closedForm.refreshed(values, samples, rows)
        }
        val head = machine.run("solve", current + machine.manifest.hyperOf(phase))
        return current + head + ("blend" to FloatTensor.of(1f))
    }

    /** What protects this update's samples from the next one: prototypes and covariances go on with them. */
    fun withProtection(values: Values): Values {
        val kept = values.filterKeys { it.startsWith(Trainer.COVARIANCE) || it in PROTOTYPES }
        val rows = samples.where { samples.pending[it] && !samples.heldBack[it] }
        if (kept.isEmpty() || rows.isEmpty()) return values
        val sums = trainer.scores(values, rows, values.required("class_mask"), from = kept)
        return values + kept.keys.associateWith { sums.required(it) }
    }

    companion object {
        const val SOLVE = "solve"
        private val PROTOTYPES = setOf("prototypes", "prototype_count")
    }
}
