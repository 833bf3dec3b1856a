import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import javax.tools.ToolProvider;
import org.jetbrains.kotlin.cli.common.ExitCode;
import org.jetbrains.kotlin.cli.jvm.K2JVMCompiler;

/**
 * Compiles modules one after the other in one process, which starts and warms the compiler up once.
 *
 * Arguments are files of lines: where to note success, what to note, the class path, the target, flags of the Kotlin
 * compiler and sources. Ends with 1 at the first module that does not compile.
 */
class Compile {
    public static void main(String[] jobs) throws IOException {
        for (String job : jobs) {
            List<String> lines = Files.readAllLines(Path.of(job));
            Path stamp = Path.of(lines.get(0));
            System.out.println("compiling " + Path.of(job).getFileName());
            if (!compile(lines.get(2), lines.get(3), lines.subList(4, lines.size()))) System.exit(1);
            Files.writeString(stamp, lines.get(1));
        }
        System.exit(0);
    }

    private static boolean compile(String classPath, String target, List<String> rest) {
        List<String> kotlin = new ArrayList<>(List.of("-cp", classPath, "-d", target));
        kotlin.addAll(rest);
        if (new K2JVMCompiler().exec(System.err, kotlin.toArray(new String[0])) != ExitCode.OK) return false;
        List<String> java = new ArrayList<>(List.of("-nowarn", "-Werror", "-cp", target + ":" + classPath, "-d", target));
        int options = java.size();
        for (String argument : rest) if (argument.endsWith(".java")) java.add(argument);
        return java.size() == options
            || ToolProvider.getSystemJavaCompiler().run(null, null, null, java.toArray(new String[0])) == 0;
    }
}
