import java.lang.reflect.Method;
import java.nio.file.Path;
import java.util.Map;
import java.util.Set;
import org.elasticsearch.common.logging.LogConfigurator;
import org.elasticsearch.common.settings.Settings;
import org.elasticsearch.env.Environment;
import org.elasticsearch.node.InternalSettingsPreparer;
import org.elasticsearch.node.Node;
import org.elasticsearch.plugins.PluginBundle;
import org.elasticsearch.plugins.PluginsLoader;

/**
 * Starts a node in this process, from jars on the class path. The launcher of a distribution would refuse to run as
 * root, ask for kernel settings, and load an agent that isn't in any public repository.
 */
public class StartNode {
    public static void main(String[] arguments) throws Exception {
        Path home = Path.of(System.getProperty("es.path.home"));
        Path configuration = Path.of(System.getProperty("es.path.conf"));
        Environment environment = InternalSettingsPreparer.prepareEnvironment(
            Settings.EMPTY, Map.of("path.home", home.toString()), configuration, () -> "test");
        LogConfigurator.setClusterName("test");
        LogConfigurator.setNodeName("test");
        LogConfigurator.configureESLogging();
        LogConfigurator.registerErrorListener();
        LogConfigurator.configure(environment, true);
        PluginsLoader plugins = PluginsLoader.createPluginsLoader(
            bundles("loadModulesBundles", home.resolve("modules")),
            bundles("loadPluginsBundles", home.resolve("plugins")),
            Map.of(),
            false);
        Node node = new Node(environment, plugins);
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            try {
                node.close();
            } catch (Exception error) {
                error.printStackTrace();
            }
        }));
        node.start();
        Thread.currentThread().join();
    }

    /** Version 9 asks for one argument more than version 8. */
    @SuppressWarnings("unchecked")
    private static Set<PluginBundle> bundles(String name, Path directory) throws ReflectiveOperationException {
        for (Method method : PluginsLoader.class.getMethods()) {
            if (method.getName().equals(name)) {
                Object bundles = method.getParameterCount() == 1
                    ? method.invoke(null, directory)
                    : method.invoke(null, directory, false);
                return (Set<PluginBundle>) bundles;
            }
        }
        throw new NoSuchMethodException(name);
    }
}
