import com.android.apksig.ApkSigner;
import com.android.apksig.ApkVerifier;
import java.io.File;
import java.io.FileInputStream;
import java.security.KeyStore;
import java.security.PrivateKey;
import java.security.cert.X509Certificate;
import java.util.List;

/**
 * Aligns an APK, its native libraries to pages of 16 KB, and signs it with the schemes v2 and v3; then verifies it.
 *
 * Arguments: a PKCS12 key store, its password, the APK, the signed APK, the lowest SDK. Ends with 1 if it does not verify.
 */
class Sign {
    private static final int PAGE = 16 * 1024;

    public static void main(String[] given) throws Exception {
        char[] password = given[1].toCharArray();
        KeyStore store = KeyStore.getInstance("PKCS12");
        try (FileInputStream file = new FileInputStream(given[0])) {
            store.load(file, password);
        }
        String alias = store.aliases().nextElement();
        PrivateKey key = (PrivateKey) store.getKey(alias, password);
        X509Certificate certificate = (X509Certificate) store.getCertificate(alias);
        File target = new File(given[3]);
        int lowest = Integer.parseInt(given[4]);
        new ApkSigner.Builder(List.of(new ApkSigner.SignerConfig.Builder(alias, key, List.of(certificate)).build()))
            .setInputApk(new File(given[2]))
            .setOutputApk(target)
            .setMinSdkVersion(lowest)
            .setV1SigningEnabled(false)
            .setV2SigningEnabled(true)
            .setV3SigningEnabled(true)
            .setAlignmentPreserved(false)
            .setLibraryPageAlignmentBytes(PAGE)
            .build()
            .sign();
        ApkVerifier.Result result = new ApkVerifier.Builder(target).setMinCheckedPlatformVersion(lowest).build().verify();
        result.getAllErrors().forEach(System.err::println);
        System.out.println("signed: v2 " + result.isVerifiedUsingV2Scheme() + ", v3 " + result.isVerifiedUsingV3Scheme());
        boolean isGood = result.isVerified() && result.isVerifiedUsingV2Scheme() && result.isVerifiedUsingV3Scheme();
        System.exit(isGood ? 0 : 1);
    }
}
