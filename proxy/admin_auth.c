/* Who may use the admin port. Without admin-token it is on loopback (config.c sees to that), and open; with one, all
 * but /healthz and /readyz asks for it:
 *
 *     Authorization: Bearer TOKEN            programs: Prometheus, holdfast ctl
 *     Authorization: Basic base64(any:TOKEN) browsers, which ask for it when they are told 401 */
#include <event2/http.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <string.h>
#include <strings.h>

#include "config/config.h"
#include "log/base/buf.h"
#include "proxy/admin_internal.h"

enum { CREDENTIALS_BYTES_MAX = 1024, HTTP_UNAUTHORIZED = 401 };

static bool same(const char *said, size_t n, const char *token)
{
    return n == strlen(token) && CRYPTO_memcmp(said, token, n) == 0;
}

static bool basic(const char *encoded, const char *token)
{
    unsigned char plain[CREDENTIALS_BYTES_MAX];
    size_t n = strlen(encoded), padding = 0;
    const unsigned char *colon;
    int length;

    if (n == 0 || n % 4 != 0 || n >= sizeof plain)
        return false;
    while (padding < 2 && encoded[n - 1 - padding] == '=')
        padding++;
    length = EVP_DecodeBlock(plain, (const unsigned char *)encoded, (int)n);
    if (length < (int)padding)
        return false;
    n = (size_t)length - padding;
    colon = memchr(plain, ':', n);
    return colon != NULL && same((const char *)colon + 1, n - (size_t)(colon + 1 - plain), token);
}

bool admin_may(const struct admin *a, struct evhttp_request *request)
{
    const char *token = a->config->admin_token;
    const char *said = evhttp_find_header(evhttp_request_get_input_headers(request), "Authorization");

    if (token[0] == '\0')
        return true;
    if (said == NULL)
        return false;
    if (strncasecmp(said, "Bearer ", 7) == 0)
        return same(said + 7, strlen(said + 7), token);
    return strncasecmp(said, "Basic ", 6) == 0 && basic(said + 6, token);
}

void admin_ask_who(struct evhttp_request *request)
{
    struct buf body = {0};

    (void)evhttp_add_header(evhttp_request_get_output_headers(request), "WWW-Authenticate",
                            "Basic realm=\"Holdfast: any name, and the admin-token\", charset=\"UTF-8\"");
    buf_text(&body, "the admin-token is needed: Authorization: Bearer TOKEN\n");
    admin_answer(request, HTTP_UNAUTHORIZED, "text/plain; charset=utf-8", &body);
    buf_free(&body);
}
