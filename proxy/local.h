/* The table of commands that Holdfast treats in a way of its own, and our answers to them. */
#ifndef HF_LOCAL_H
#define HF_LOCAL_H

#include <stdbool.h>
#include <stddef.h>

#include "proxy/router.h"
#include "proxy/session.h"

struct worker;

/* Answers, or says NOT_NOW. c may be NULL (Valkey is away). The number of arguments fits. */
typedef enum dispatch local_fn(struct session *s, const struct argv *a);

struct local_row {
    const char *name; /* lower case; "client|setname" */
    enum treatment treatment;
    int arity;        /* as in COMMAND */
    bool in_multi;    /* Valkey may queue it: it does there what we would do, or does no harm */
    local_fn *run;    /* TREAT_ALWAYS, TREAT_LOCAL, and those that need more than being sent */
    const char *note; /* for PROXY COMMANDS; for TREAT_REFUSED: why */
};

/* The row for a command; never NULL (a row with TREAT_BY_FLAGS for most). c: as Valkey names it, or NULL. */
const struct local_row *local_row(struct worker *w, const struct command *c, const struct argv *a);
/* enum guard, or-ed: one of them allowed, it is available. 0: not guarded. */
unsigned local_guard(const struct local_row *row);
/* Its treatment here: what is guarded may be allowed. */
enum treatment local_treatment(const struct worker *w, const struct local_row *row);
/* The command that the arguments name, NULL if Valkey did not list it or is away, and its row. */
const struct local_row *local_find(struct worker *w, const struct argv *a, const struct command **c);
const struct local_row *local_rows(size_t *count);
void local_forget(struct worker *w); /* the command table changes */

/* local_hello.c */
local_fn local_hello, local_auth, local_reset, local_quit, local_ping, local_select, local_close, local_readonly;
/* local_client.c */
local_fn local_client_id, local_client_getname, local_client_setname, local_client_setinfo, local_client_info,
    local_client_help, local_client_capa;
/* local_clients.c */
local_fn local_client_list, local_client_kill, local_client_unblock;
/* pause.c */
local_fn local_client_pause, local_client_unpause;
/* local_state.c */
local_fn local_client_reply, local_client_durability, local_client_tracking, local_client_getredir,
    local_client_trackinginfo, local_client_flag, local_subscribe, local_monitor;
/* local_config.c */
local_fn local_config_get, local_config_set;
/* local_info.c */
/* local_debug: local_debug.c */
local_fn local_info, local_role, local_proxy, local_whoami, local_acl, local_module, local_debug;
/* backup.c */
local_fn local_replconf, local_sync;
/* local_wait.c */
local_fn local_wait, local_waitaof;
void local_wait_tick(struct worker *w, uint64_t now_ms);
void local_wait_unblock(struct task *t, bool error); /* CLIENT UNBLOCK */
void local_wait_reached(struct task *half);          /* durable, in fewer zones than were asked for */
void local_wait_durable(struct task *t);             /* RELEASE of the half that the core had; frees it */

/* local_info.c: whether Holdfast itself logs in to Valkey as this user */
bool local_is_own_user(const struct worker *w, const char *name, size_t n);

/* Rights may have changed. What Valkey said goes to the client when they are known here, too: they hold from then on.
 * The session takes no other command meanwhile (s->barrier). */
void local_answer_learned(struct task *t, const char *reply, size_t n);

/* Shared by them: one answer at once. */
enum dispatch local_ok(struct session *s);
enum dispatch local_error(struct session *s, const char *text);
/* "unknown subcommand or wrong number of arguments for 'PAUSE'. Try CLIENT HELP." */
enum dispatch local_bad_subcommand(struct session *s, const struct argv *a);
enum dispatch local_reply(struct session *s, struct buf *reply); /* frees reply's memory */
bool argv_text(const struct argv *a, size_t i, char *out,
               size_t size); /* a C string; false if too long or with NUL inside */

#endif
