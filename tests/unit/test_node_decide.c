/* Every combination of facts, against the table of node_decide.c written down a second time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "proxy/node.h"

static struct node_facts facts_of(unsigned bits)
{
    return (struct node_facts){.log_empty = bits & 1,
                               .log_attached = bits & 2,
                               .same_run_id = bits & 4,
                               .is_replica = bits & 8,
                               .loading = bits & 16,
                               .cluster_enabled = bits & 32,
                               .lacks_commands = bits & 64,
                               .bridge_failed = bits & 128};
}

static void never_trusts_what_is_not_proven(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 256; bits++) {
        struct node_facts f = facts_of(bits);
        const char *reason = NULL;
        enum node_choice choice = node_decide(&f, &reason);

        assert_non_null(reason);
        assert_true(reason[0] != '\0');
        if (choice == CHOOSE_BRIDGE)
            assert_true(f.log_attached && f.same_run_id && !f.is_replica && !f.bridge_failed && !f.log_empty);
        if (choice == CHOOSE_ADOPT)
            assert_true(f.log_empty && !f.is_replica);
        if (choice == CHOOSE_REBUILD)
            assert_false(f.log_empty);
        if (f.cluster_enabled || f.lacks_commands)
            assert_int_equal(choice, CHOOSE_REFUSE);
        else if (f.loading)
            assert_int_equal(choice, CHOOSE_WAIT);
        else
            assert_true(choice != CHOOSE_WAIT);
    }
}

static void table(void **state)
{
    static const struct {
        struct node_facts f;
        enum node_choice choice;
    } row[] = {
        {{.log_empty = true}, CHOOSE_ADOPT},
        {{.log_empty = true, .is_replica = true}, CHOOSE_REFUSE},
        {{.log_empty = true, .loading = true, .is_replica = true}, CHOOSE_WAIT},
        {{.log_attached = false}, CHOOSE_REBUILD}, /* a snapshot alone, or a rebuild that died */
        {{.log_attached = true}, CHOOSE_REBUILD},  /* restarted */
        {{.log_attached = true, .same_run_id = true}, CHOOSE_BRIDGE},
        {{.log_attached = true, .same_run_id = true, .is_replica = true}, CHOOSE_REBUILD},
        {{.log_attached = true, .same_run_id = true, .bridge_failed = true}, CHOOSE_REBUILD},
        {{.log_attached = true, .same_run_id = true, .loading = true}, CHOOSE_WAIT},
        {{.log_attached = true, .same_run_id = true, .cluster_enabled = true}, CHOOSE_REFUSE},
        {{.log_attached = true, .same_run_id = true, .lacks_commands = true}, CHOOSE_REFUSE},
    };

    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const char *reason;

        assert_int_equal(node_decide(&row[i].f, &reason), row[i].choice);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(never_trusts_what_is_not_proven), cmocka_unit_test(table)};

    return cmocka_run_group_tests_name("node_decide", tests, NULL, NULL);
}
