#include "log/base/address.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>
#include <unistd.h>

bool address_split(const char *address, char host[ADDRESS_HOST_BYTES_MAX], char port[ADDRESS_PORT_BYTES_MAX])
{
    const char *colon = strrchr(address, ':');
    size_t n;

    if (colon == NULL || (n = (size_t)(colon - address)) >= ADDRESS_HOST_BYTES_MAX || colon[1] == '\0' ||
        strlen(colon + 1) >= ADDRESS_PORT_BYTES_MAX)
        return false;
    if (n >= 2 && address[0] == '[' && address[n - 1] == ']')
        (void)snprintf(host, ADDRESS_HOST_BYTES_MAX, "%.*s", (int)(n - 2), address + 1);
    else
        (void)snprintf(host, ADDRESS_HOST_BYTES_MAX, "%.*s", (int)n, address);
    (void)snprintf(port, ADDRESS_PORT_BYTES_MAX, "%s", colon + 1);
    return true;
}

/* The addrinfo list is the caller's: freeaddrinfo(). */
static struct addrinfo *look_up(const char *address, int flags, char *why, size_t why_size)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = flags}, *found = NULL;
    char host[ADDRESS_HOST_BYTES_MAX], port[ADDRESS_PORT_BYTES_MAX];
    const char *node = host;
    int rc;

    if (!address_split(address, host, port)) {
        (void)snprintf(why, why_size, "not host:port");
        return NULL;
    }
    if ((flags & AI_PASSIVE) && strcmp(host, "*") == 0) {
        hints.ai_family = AF_INET;
        node = NULL;
    } else if ((flags & AI_PASSIVE) && strcmp(host, "::*") == 0) {
        hints.ai_family = AF_INET6;
        node = NULL;
    }
    if ((rc = getaddrinfo(node, port, &hints, &found)) != 0) {
        (void)snprintf(why, why_size, "%s", gai_strerror(rc));
        return NULL;
    }
    return found;
}

bool address_numeric(const char *address, struct sockaddr_storage *out)
{
    char why[128];
    struct addrinfo *found = look_up(address, AI_NUMERICHOST | AI_NUMERICSERV, why, sizeof why);

    if (found == NULL || found->ai_addrlen > sizeof *out) {
        if (found != NULL)
            freeaddrinfo(found);
        return false;
    }
    memset(out, 0, sizeof *out);
    memcpy(out, found->ai_addr, found->ai_addrlen);
    freeaddrinfo(found);
    return true;
}

bool address_is_loopback(const struct sockaddr_storage *a)
{
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;

    if (a->ss_family == AF_INET) {
        memcpy(&v4, a, sizeof v4);
        return (ntohl(v4.sin_addr.s_addr) >> 24) == 127;
    }
    if (a->ss_family != AF_INET6)
        return false;
    memcpy(&v6, a, sizeof v6);
    return IN6_IS_ADDR_LOOPBACK(&v6.sin6_addr) ||
           (IN6_IS_ADDR_V4MAPPED(&v6.sin6_addr) && v6.sin6_addr.s6_addr[12] == 127);
}

bool address_remote_is_loopback(int fd)
{
    struct sockaddr_storage a;
    socklen_t n = sizeof a;

    return getpeername(fd, (struct sockaddr *)&a, &n) == 0 && address_is_loopback(&a);
}

bool address_text(const struct sockaddr_storage *a, socklen_t size, bool with_port, char *out, size_t out_size)
{
    char host[ADDRESS_HOST_BYTES_MAX], port[ADDRESS_PORT_BYTES_MAX];

    if (a->ss_family == AF_UNIX || getnameinfo((const struct sockaddr *)a, size, host, sizeof host, port, sizeof port,
                                               NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return false;
    if (!with_port)
        (void)snprintf(out, out_size, "%s", host);
    else
        (void)snprintf(out, out_size, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
    return true;
}

static int connect_unix(const char *path, char *why, size_t why_size)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    int fd;

    if (strlen(path) >= sizeof to.sun_path) {
        (void)snprintf(why, why_size, "socket path too long");
        return -1;
    }
    memcpy(to.sun_path, path, strlen(path) + 1);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno != EINPROGRESS) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        (void)close(fd);
        return -1;
    }
    if (fd < 0)
        (void)snprintf(why, why_size, "%s", strerror(errno));
    return fd;
}

static int connect_tcp(const char *address, char *why, size_t why_size)
{
    struct addrinfo *found = look_up(address, 0, why, why_size);
    int fd;

    if (found == NULL)
        return -1;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
    } else if (connect(fd, found->ai_addr, found->ai_addrlen) != 0 && errno != EINPROGRESS) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        (void)close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

int address_connect(const char *address, char *why, size_t why_size)
{
    return address[0] == '/' ? connect_unix(address, why, why_size) : connect_tcp(address, why, why_size);
}

int address_listen(const char *address, int backlog, char *why, size_t why_size)
{
    struct addrinfo *found = look_up(address, AI_PASSIVE, why, why_size);
    int one = 1, fd;

    if (found == NULL)
        return -1;
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) != 0 || listen(fd, backlog) != 0) {
        (void)snprintf(why, why_size, "%s", strerror(errno));
        if (fd >= 0)
            (void)close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}
