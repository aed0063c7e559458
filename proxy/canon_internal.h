/* Shared by canon.c (the table), canon_forms.c, canon_time.c and canon_streams.c (which forms are taken, and their
 * canonical spelling) and canon_belongs.c. */
#ifndef HF_CANON_INTERNAL_H
#define HF_CANON_INTERNAL_H

#include "proxy/canon.h"

struct canon_call {
    const struct argv *a;
    uint64_t now_ms;
    struct buf *out;
};
typedef enum canon_result (*canon_form)(const struct canon_call *c);
typedef bool (*canon_belongs)(const struct argv *intent, const struct argv *effect);

enum canon_result same_if(bool ok);
bool is_one_of(const struct argv *a, size_t i, const char *const *words); /* NULL-terminated */

enum canon_result form_same(const struct canon_call *c);
enum canon_result form_set(const struct canon_call *c);
enum canon_result form_setex(const struct canon_call *c);
enum canon_result form_psetex(const struct canon_call *c);
enum canon_result form_getex(const struct canon_call *c);
enum canon_result form_expire(const struct canon_call *c);
enum canon_result form_pexpire(const struct canon_call *c);
enum canon_result form_expireat(const struct canon_call *c);
enum canon_result form_pexpireat(const struct canon_call *c);
enum canon_result form_msetex(const struct canon_call *c);
enum canon_result form_restore(const struct canon_call *c);
enum canon_result form_hexpire(const struct canon_call *c);
enum canon_result form_hpexpire(const struct canon_call *c);
enum canon_result form_hexpireat(const struct canon_call *c);
enum canon_result form_hpexpireat(const struct canon_call *c);
enum canon_result form_hsetex(const struct canon_call *c);
enum canon_result form_hgetex(const struct canon_call *c);
enum canon_result form_hfields(const struct canon_call *c);

enum canon_result form_copy(const struct canon_call *c);
enum canon_result form_bitop(const struct canon_call *c);
enum canon_result form_bitfield(const struct canon_call *c);
enum canon_result form_pop(const struct canon_call *c);
enum canon_result form_linsert(const struct canon_call *c);
enum canon_result form_lmove(const struct canon_call *c);
enum canon_result form_lmpop(const struct canon_call *c);
enum canon_result form_zmpop(const struct canon_call *c);
enum canon_result form_zadd(const struct canon_call *c);
enum canon_result form_zstore(const struct canon_call *c);
enum canon_result form_zrangestore(const struct canon_call *c);
enum canon_result form_geoadd(const struct canon_call *c);
enum canon_result form_geosearchstore(const struct canon_call *c);
enum canon_result form_xadd(const struct canon_call *c);
enum canon_result form_xtrim(const struct canon_call *c);
enum canon_result form_sort(const struct canon_call *c);
enum canon_result form_georadius(const struct canon_call *c);
enum canon_result form_xgroup_create(const struct canon_call *c);
enum canon_result form_xgroup_setid(const struct canon_call *c);
enum canon_result form_xsetid(const struct canon_call *c);
bool xadd_wants_id(const struct argv *a);

bool belongs_never(const struct argv *intent, const struct argv *effect);
bool belongs_set(const struct argv *intent, const struct argv *effect);
bool belongs_getset(const struct argv *intent, const struct argv *effect);
bool belongs_deleted(const struct argv *intent, const struct argv *effect);
bool belongs_getex(const struct argv *intent, const struct argv *effect);
bool belongs_incrbyfloat(const struct argv *intent, const struct argv *effect);
bool belongs_hincrbyfloat(const struct argv *intent, const struct argv *effect);
bool belongs_hgetex(const struct argv *intent, const struct argv *effect);
bool belongs_geoadd(const struct argv *intent, const struct argv *effect);
bool belongs_lmpop(const struct argv *intent, const struct argv *effect);
bool belongs_zmpop(const struct argv *intent, const struct argv *effect);

#endif
