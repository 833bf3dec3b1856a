package pocketstep.litert;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;
import pocketstep.learner.BlockingLearner;
import pocketstep.learner.Budget;
import pocketstep.learner.InputException;
import pocketstep.learner.Prediction;
import pocketstep.learner.UpdateReport;
import pocketstep.testing.Fixtures;

/** The library as Java sees it. */
public class JavaCallerTest {
    @Rule public TemporaryFolder temporary = new TemporaryFolder();

    @Test
    public void learns() {
        Path state = temporary.getRoot().toPath().resolve("state");
        try (BlockingLearner learner = BlockingLearner.open(Fixtures.INSTANCE.getBundle(), state, new DesktopLiteRt())) {
            learner.addClass("9");
            learner.observe(Fixtures.INSTANCE.images("train", 0, 20), "9");
            List<Integer> steps = new ArrayList<>();
            UpdateReport report = learner.update(new Budget(60.0), "closed-form", progress -> steps.add(progress.getStep()));
            assertTrue(report.getAccepted());
            assertEquals(0, steps.size());
            Prediction seen = learner.classify(Fixtures.INSTANCE.images("train", 0, 3));
            assertEquals(10, seen.getClasses().size());
            assertThrows(InputException.class, () -> learner.addClass("9"));
            learner.rollback();
        }
    }
}
