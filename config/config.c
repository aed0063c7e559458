/* The door of the settings: defaults, load, one at a time, listing, reload. The rows are in config_table.c. */
#include "config/config.h"

#include <fnmatch.h>
#include <hiredis/sds.h>
#include <stdio.h>
#include <string.h>

#include "config/config_table.h"
#include "log/base/buf.h"
#include "log/base/diag.h"

enum { PATTERN_BYTES_MAX = 256 };

const char *durability_name(enum durability d)
{
    switch (d) {
    case DURABILITY_OFF:
        return "off";
    case DURABILITY_ASYNC:
        return "async";
    case DURABILITY_SYNC:
        break;
    }
    return "sync";
}

/* One value as text, which for some settings is several arguments. */
static bool parse_value(const struct setting *s, struct config *c, const char *value, char *why, size_t why_size)
{
    char *one[] = {(char *)(uintptr_t)value};
    sds *argv;
    int argc;
    bool ok;

    if (!setting_takes_several(s) || value[0] == '\0')
        return setting_parse(s, c, 1, one, why, why_size);
    argv = sdssplitargs(value, &argc);
    if (argv == NULL) {
        (void)snprintf(why, why_size, "Unbalanced quotes in configuration line");
        return false;
    }
    ok = setting_parse(s, c, argc, argv, why, why_size);
    sdsfreesplitres(argv, argc);
    return ok;
}

void config_defaults(struct config *c)
{
    char why[128];

    memset(c, 0, sizeof *c);
    for (size_t i = 0; setting_at(i) != NULL; i++) {
        bool ok = parse_value(setting_at(i), c, setting_at(i)->default_text, why, sizeof why);

        CHECK(ok);
    }
}

bool config_load(struct config *c, int argc, char **argv, struct buf *err)
{
    config_defaults(c);
    return config_read_all(c, argc, argv, err);
}

bool config_known(const char *name)
{
    return setting_find(name) != NULL;
}

bool config_set(struct config *c, const char *name, const char *value, bool runtime, char *why, size_t why_size)
{
    const struct setting *s = setting_find(name);

    if (s == NULL) {
        (void)snprintf(why, why_size, "Unknown option or number of arguments for CONFIG SET");
        return false;
    }
    if (runtime && !(s->flags & SETTING_RUNTIME)) {
        (void)snprintf(why, why_size, "can't set immutable config");
        return false;
    }
    return parse_value(s, c, value, why, why_size);
}

void config_get(const struct config *c, const char *pattern,
                void (*each)(void *arg, const char *name, const char *value), void *arg)
{
    char value[SETTING_VALUE_MAX];

    if (strlen(pattern) > PATTERN_BYTES_MAX) /* longer than any name: matches nothing worth the time */
        return;
    for (size_t i = 0; setting_at(i) != NULL; i++) {
        const struct setting *s = setting_at(i);

        if (fnmatch(pattern, s->name, FNM_CASEFOLD) != 0)
            continue;
        value[0] = '\0';
        if (!(s->flags & SETTING_SENSITIVE))
            setting_show(s, c, value, sizeof value);
        each(arg, s->name, value);
    }
}

void config_differences(const struct config *before, const struct config *after,
                        void (*each)(void *arg, const char *name, const char *before, const char *after), void *arg)
{
    char was[SETTING_VALUE_MAX] = "", is[SETTING_VALUE_MAX] = "";

    for (size_t i = 0; setting_at(i) != NULL; i++) {
        const struct setting *s = setting_at(i);

        if (setting_equal(s, before, after))
            continue;
        if (s->flags & SETTING_SENSITIVE) {
            each(arg, s->name, "", "");
            continue;
        }
        setting_show(s, before, was, sizeof was);
        setting_show(s, after, is, sizeof is);
        each(arg, s->name, was, is);
    }
}

bool config_reload(struct config *c, struct buf *notes)
{
    struct config fresh;

    if (strcmp(c->file, "-") == 0) {
        buf_printf(notes, "settings came from standard input and cannot be read again\n");
        return false;
    }
    if (!config_load(&fresh, c->argc, c->argv, notes))
        return false;
    for (size_t i = 0; setting_at(i) != NULL; i++) {
        const struct setting *s = setting_at(i);

        if (setting_equal(s, c, &fresh))
            continue;
        if (s->flags & SETTING_RUNTIME)
            memcpy((char *)c + s->at, (const char *)&fresh + s->at, s->size);
        else
            buf_printf(notes, "%s has changed in the settings file and needs a restart\n", s->name);
    }
    return true;
}
