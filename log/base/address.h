/* Addresses as settings write them: "host:port", "[v6]:port", or the path of a Unix socket, which begins with '/'. */
#ifndef HF_ADDRESS_H
#define HF_ADDRESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

enum { ADDRESS_HOST_BYTES_MAX = 256, ADDRESS_PORT_BYTES_MAX = 32, ADDRESS_BYTES_MAX = 320 };

/* False: not host:port. */
bool address_split(const char *address, char host[ADDRESS_HOST_BYTES_MAX], char port[ADDRESS_PORT_BYTES_MAX]);
/* host is a number already: what it means, without asking a name server. False if it is not. */
bool address_numeric(const char *address, struct sockaddr_storage *out);
/* 127.0.0.0/8 and ::1; false for other families. */
bool address_is_loopback(const struct sockaddr_storage *a);
/* The other end's is. Both false if there is none. */
bool address_remote_is_loopback(int fd);
/* "ip" or "ip:port"; false for a Unix socket. */
bool address_text(const struct sockaddr_storage *a, socklen_t size, bool with_port, char *out, size_t out_size);

/* A non-blocking socket on its way to being connected; -1 with a reason. Names are resolved at once, which blocks. */
int address_connect(const char *address, char *why, size_t why_size);
/* A non-blocking listening TCP socket; -1 with a reason. Host "*" is every address of IPv4, "::" or "::*" of IPv6. */
int address_listen(const char *address, int backlog, char *why, size_t why_size);

#endif
