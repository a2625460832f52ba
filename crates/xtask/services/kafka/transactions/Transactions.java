import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

/**
 * Kafka's own producers, which do what they are told, line by line, and answer each line with itself:
 * {@code NAME begin}, {@code NAME send TOPIC PARTITION KEY VALUE}, {@code NAME flush}, {@code NAME commit}, {@code NAME abort}.
 * A name is that of a transactional id; its producer is made when it is first told something.
 */
public final class Transactions {
    public static void main(String[] arguments) throws Exception {
        Map<String, KafkaProducer<String, String>> producers = new HashMap<>();
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line; (line = lines.readLine()) != null; ) {
            String[] words = line.split(" ");
            KafkaProducer<String, String> producer = producers.computeIfAbsent(words[0], id -> open(arguments[0], id));
            switch (words[1]) {
                case "begin" -> producer.beginTransaction();
                case "send" -> producer.send(
                    new ProducerRecord<>(words[2], Integer.parseInt(words[3]), words[4], words[5]));
                case "flush" -> producer.flush();
                case "commit" -> producer.commitTransaction();
                case "abort" -> producer.abortTransaction();
                default -> throw new IllegalArgumentException(line);
            }
            System.out.println(line);
        }
        // What is open stays open, as when a process dies.
        Runtime.getRuntime().halt(0);
    }

    private static KafkaProducer<String, String> open(String bootstrap, String id) {
        Properties settings = new Properties();
        settings.put("bootstrap.servers", bootstrap);
        settings.put("transactional.id", id);
        settings.put("compression.type", "zstd");
        KafkaProducer<String, String> producer =
            new KafkaProducer<>(settings, new StringSerializer(), new StringSerializer());
        producer.initTransactions();
        return producer;
    }
}
