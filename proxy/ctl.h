/* holdfast ctl: the operator's side of the admin port. */
#ifndef HF_CTL_H
#define HF_CTL_H

enum ctl_exit { CTL_OK, CTL_FAILED, CTL_USAGE, CTL_UNREACHABLE };

/* argv[0] is "ctl". Returns an exit code. */
int ctl_main(int argc, char **argv);

#endif
