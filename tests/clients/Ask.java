// java Ask.java URL
//
// Publish to a channel with HttpURLConnection and read it, all by its defaults. For each answer a
// line with status, content type and the id in the header, and then the body.

import java.net.HttpURLConnection;
import java.net.URL;

class Ask {
    static void print(HttpURLConnection http) throws Exception {
        String id = http.getHeaderField("Last-Event-ID");
        System.out.println(http.getResponseCode() + " " + http.getContentType() + " " + id);
        http.getInputStream().transferTo(System.out);
    }

    public static void main(String[] words) throws Exception {
        URL url = new URL(words[0]);
        HttpURLConnection post = (HttpURLConnection) url.openConnection();
        post.setDoOutput(true);
        post.getOutputStream().write("the bill & the change".getBytes());
        print(post);
        print((HttpURLConnection) url.openConnection());
    }
}
