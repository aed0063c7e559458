#!/bin/sh
# As in Valkey's image: options or a settings file alone are for holdfast; root becomes the user holdfast; files are private.
# HOLDFAST_EXTRA_FLAGS is appended. Every other HOLDFAST_* variable is a setting, before the options, so that these win:
#
#     HOLDFAST_DURABILITY=async                          --durability async
#     HOLDFAST_MEMBER='a az-a hf-a:7000;b az-b hf-b:7000'   --member a az-a hf-a:7000 --member b az-b hf-b:7000
set -e

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ] || [ "${1%.conf}" != "$1" ]; then
    set -- holdfast "$@"
fi

if [ "$1" = holdfast ] && [ "$(id -u)" = 0 ]; then
    find . \! -user holdfast -exec chown holdfast '{}' +
    exec setpriv --reuid=holdfast --regid=holdfast --clear-groups -- "$0" "$@"
fi

if [ "$1" = holdfast ] && [ "${2:-}" != ctl ]; then
    shift
    file=
    if [ $# -gt 0 ] && [ "${1#-}" = "$1" ]; then
        file=$1
        shift
    fi
    given=$# # what is given goes behind what the environment says, as it is
    for name in $(env | sed -n 's/^\(HOLDFAST_[A-Z0-9_]*\)=.*/\1/p' | sort); do
        [ "$name" != HOLDFAST_EXTRA_FLAGS ] || continue
        setting=$(printf %s "${name#HOLDFAST_}" | tr 'A-Z_' 'a-z-')
        value=$(printenv "$name")
        case $name=$value in # what Kubernetes says of a Service by the name of holdfast
        *_SERVICE_HOST=* | *_SERVICE_PORT=* | *_SERVICE_PORT_*=* | *=tcp://* | *_PORT_[0-9]*_*=*) continue ;;
        esac
        case $setting in
        member)
            members=$value
            while [ -n "$members" ]; do
                member=${members%%;*}
                members=${members#"$member"}
                members=${members#;}
                # shellcheck disable=SC2086
                [ -z "$member" ] || set -- "$@" --member $member
            done
            ;;
        bind | client-output-buffer-limit | allow-*)
            # shellcheck disable=SC2086
            set -- "$@" "--$setting" $value
            ;;
        *)
            [ -z "$value" ] || set -- "$@" "--$setting" "$value"
            ;;
        esac
    done
    while [ "$given" -gt 0 ]; do
        set -- "$@" "$1"
        shift
        given=$((given - 1))
    done
    # shellcheck disable=SC2086
    set -- holdfast ${file:+"$file"} "$@" ${HOLDFAST_EXTRA_FLAGS:-}
fi

if [ "$(umask)" = 0022 ]; then
    umask 0077
fi
exec "$@"
