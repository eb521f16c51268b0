import com.fasterxml.jackson.databind.ObjectMapper;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.AuthorityApi;
import org.openapitools.client.api.SignApi;
import org.openapitools.client.model.BatchItem;
import org.openapitools.client.model.BatchRequest;
import org.openapitools.client.model.Problem;
import org.openapitools.client.model.ProfileName;
import org.openapitools.client.model.Reason;
import org.openapitools.client.model.SignRequest;

/** The client that openapi-generator makes for Java, used: URL, API key, good request, bad request. */
public final class Main {
  private static final ObjectMapper MAPPER = ApiClient.createDefaultObjectMapper();

  private static ApiClient client(String url, String key) {
    ApiClient client = new ApiClient();
    client.updateBaseUri(url);
    client.setRequestInterceptor(request -> request.header("x-api-key", key));
    return client;
  }

  private static Map<String, Object> refusal(ApiClient client, String csr) throws Exception {
    try {
      new SignApi(client).sign(new SignRequest().csr(csr), null, null);
    } catch (ApiException refused) {
      Problem problem = MAPPER.readValue(refused.getResponseBody(), Problem.class);
      List<Reason> reasons = problem.getErrors() == null ? List.of() : problem.getErrors();
      List<String> fields = reasons.stream().map(Reason::getField).toList();
      return Map.of("status", problem.getStatus(), "code", problem.getCode(), "fields", fields);
    }
    throw new IllegalStateException("signed");
  }

  public static void main(String[] arguments) throws Exception {
    String good = Files.readString(Path.of(arguments[2]));
    String bad = Files.readString(Path.of(arguments[3]));
    ApiClient caller = client(arguments[0], arguments[1]);
    SignApi signing = new SignApi(caller);
    AuthorityApi authority = new AuthorityApi(caller);

    var signed = signing.sign(new SignRequest().csr(good).profile(ProfileName.CLIENT), null, null);
    var items = List.of(new BatchItem().csr(good), new BatchItem().csr(bad));
    var results = signing.signBatch(new BatchRequest().requests(items), null).getResults();
    var names = authority.profiles().getProfiles().stream().map(each -> each.getName().getValue()).toList();
    byte[] crl = Files.readAllBytes(authority.caCrl().toPath());
    System.out.println(MAPPER.writeValueAsString(Map.of(
        "certificate", signed.getCrtPem(),
        "not_after", signed.getNotAfter().toEpochSecond(),
        "refused", refusal(caller, bad),
        "forbidden", refusal(client(arguments[0], "x".repeat(40)), good),
        "root", authority.ca().getRootPem(),
        "profiles", names,
        "batch", List.of(results.get(0).getCertificate().getCrtPem(), results.get(1).getProblem().getCode()),
        "crl", HexFormat.of().formatHex(crl))));
  }
}
