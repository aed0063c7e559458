/* What a supervisor is told (sd_notify(3)): READY=1, STOPPING=1. */
#ifndef HF_NOTIFY_H
#define HF_NOTIFY_H

#include <stdbool.h>

/* One datagram to the socket that $NOTIFY_SOCKET names. false: nobody wants to know, or it could not be told, which
 * changes nothing for us. */
bool notify_supervisor(const char *text);

#endif
