#!/bin/sh
# Installs rk on this machine and starts it as a service (systemd or openrc).
#
#   curl -sfL URL/install.sh | sh -                                   a server
#   curl -sfL URL/install.sh | RK_URL=https://IP:6443 RK_TOKEN=T sh - an agent of that server
#   curl -sfL URL/install.sh | RK_URL=https://IP:6443 RK_TOKEN=T sh -s - server
#                                                                     a further server of that cluster
#
# Variables:
#   RK_URL                    URL of a server, or several with commas: install an agent (takes RK_TOKEN too)
#   RK_*                      every flag's variable is kept for the service (RK_TOKEN, RK_NODE_NAME, …)
#   INSTALL_RK_EXEC           subcommand and flags of the service, for example "server --disable-agent"
#   INSTALL_RK_VERSION        release to install                               [the latest]
#   INSTALL_RK_BASE_URL       where releases are                               [the project's own]
#   INSTALL_RK_SKIP_DOWNLOAD  true: use the rk that is in the bin folder already
#   INSTALL_RK_SKIP_START     true: install the service, but do not start it
#   INSTALL_RK_SKIP_ENABLE    true: install the service, but do not enable it
#   INSTALL_RK_BIN_DIR        folder for executables                           [/usr/local/bin]
#   INSTALL_RK_SYSTEMD_DIR    folder for the systemd unit                      [/etc/systemd/system]
#   INSTALL_RK_OPENRC_DIR     folder for the openrc script                     [/etc/init.d]
#   INSTALL_RK_CONFIG_DIR     folder for configuration and kubeconfig          [/etc/rk]
#   INSTALL_RK_NAME           name of the service                              [rk, or rk-agent]
# Arguments after `sh -s -` are flags of the service.
set -eu

BASE_URL=${INSTALL_RK_BASE_URL:-https://github.com/rk-kubernetes/rk/releases}
BIN_DIR=${INSTALL_RK_BIN_DIR:-/usr/local/bin}
SYSTEMD_DIR=${INSTALL_RK_SYSTEMD_DIR:-/etc/systemd/system}
OPENRC_DIR=${INSTALL_RK_OPENRC_DIR:-/etc/init.d}
CONFIG_DIR=${INSTALL_RK_CONFIG_DIR:-/etc/rk}

info() { echo "[rk] $*"; }
fatal() { echo "[rk] error: $*" >&2; exit 1; }
is_true() { [ "${1:-}" = true ] || [ "${1:-}" = 1 ]; }

need_root() {
    [ "$(id -u)" = 0 ] || fatal "must run as root: pipe into 'sudo sh -'"
}

# What the service runs: INSTALL_RK_EXEC and the script's own arguments; when they name no role, RK_URL decides.
choose_command() {
    # Words on purpose: INSTALL_RK_EXEC is a command line.
    # shellcheck disable=SC2086
    set -- ${INSTALL_RK_EXEC:-} "$@"
    case "${1:-}" in
        '' | -*) if [ -n "${RK_URL:-}" ]; then set -- agent "$@"; else set -- server "$@"; fi ;;
    esac
    role=$1
    command=$*
    # Where the service keeps things must be known to rk-killall.sh and rk-uninstall.sh too.
    for flag in "$@"; do
        case "$flag" in
            --data-dir=*) export RK_DATA_DIR="${flag#*=}" ;;
            --state-dir=*) export RK_STATE_DIR="${flag#*=}" ;;
            --log-dir=*) export RK_LOG_DIR="${flag#*=}" ;;
            --cgroup-root=*) export RK_CGROUP_ROOT="${flag#*=}" ;;
        esac
    done
    if [ "$CONFIG_DIR" != /etc/rk ]; then
        # A file that is named must be there; the registries' need not.
        [ ! -e "$CONFIG_DIR/config.yaml" ] || export RK_CONFIG="${RK_CONFIG:-$CONFIG_DIR/config.yaml}"
        export RK_REGISTRIES="${RK_REGISTRIES:-$CONFIG_DIR/registries.yaml}"
        [ "$role" = agent ] || export RK_WRITE_KUBECONFIG="${RK_WRITE_KUBECONFIG:-$CONFIG_DIR/rk.yaml}"
    fi
    case "$role" in
        server | agent) ;;
        *) fatal "INSTALL_RK_EXEC must begin with server or agent, not '$role'" ;;
    esac
    if [ "$role" = agent ] || [ -n "${RK_URL:-}" ]; then
        case " $command " in
            *' --token'*) ;;
            *) [ -n "${RK_TOKEN:-}${RK_TOKEN_FILE:-}" ] || if [ "$role" = agent ]; then
                    fatal "an agent needs RK_TOKEN: 'rk token' on the server shows it"
                else
                    fatal "a server that joins needs RK_TOKEN: 'rk token server' on a server shows it"
                fi ;;
        esac
    fi
    if [ "$role" = agent ]; then
        NAME=${INSTALL_RK_NAME:-rk-agent}
    else
        NAME=${INSTALL_RK_NAME:-rk}
    fi
}

choose_init() {
    if [ -n "${INSTALL_RK_OPENRC_DIR:-}" ]; then
        init=openrc
    elif [ -d /run/systemd/system ] || [ -n "${INSTALL_RK_SYSTEMD_DIR:-}" ] || { command -v systemctl >/dev/null 2>&1 && is_true "${INSTALL_RK_SKIP_START:-}"; }; then
        init=systemd
    elif command -v openrc-run >/dev/null 2>&1 || [ -x /sbin/openrc-run ]; then
        init=openrc
    elif is_true "${INSTALL_RK_SKIP_START:-}"; then
        init=none
        info "no systemd or openrc here: no service is installed"
    else
        fatal "this machine has neither systemd nor openrc: set INSTALL_RK_SKIP_START=true and run '$BIN_DIR/rk $role' yourself"
    fi
}

choose_arch() {
    case "$(uname -m)" in
        x86_64 | amd64) arch=amd64 ;;
        aarch64 | arm64) arch=arm64 ;;
        armv7l | armv6l | arm) arch=arm ;;
        riscv64) arch=riscv64 ;;
        *) fatal "no release for $(uname -m)" ;;
    esac
}

fetch() { # URL FILE
    if command -v curl >/dev/null 2>&1; then
        curl -sfL -o "$2" "$1" || fatal "download failed: $1"
    elif command -v wget >/dev/null 2>&1; then
        wget -qO "$2" "$1" || fatal "download failed: $1"
    else
        fatal "needs curl or wget"
    fi
}

download() {
    choose_arch
    if [ -n "${INSTALL_RK_VERSION:-}" ]; then
        from=$BASE_URL/download/$INSTALL_RK_VERSION
    else
        from=$BASE_URL/latest/download
    fi
    tmp=$(mktemp -d)
    trap 'rm -rf "$tmp"' EXIT
    info "downloading rk from $from"
    fetch "$from/sha256sum-$arch.txt" "$tmp/sums"
    fetch "$from/rk-$arch" "$tmp/rk"
    want=$(sed -n "s/^\([0-9a-f]\{64\}\) [ *]rk-$arch\$/\1/p" "$tmp/sums")
    [ -n "$want" ] || fatal "$from/sha256sum-$arch.txt has no line for rk-$arch"
    got=$(sha256sum "$tmp/rk" | cut -d' ' -f1)
    [ "$want" = "$got" ] || fatal "sha256 of rk-$arch is $got, not $want: the download is damaged, nothing was installed"
    chmod 755 "$tmp/rk"
    mkdir -p "$BIN_DIR"
    # A running rk is not overwritten: the new file takes over its name.
    cp "$tmp/rk" "$BIN_DIR/.rk.new"
    mv -f "$BIN_DIR/.rk.new" "$BIN_DIR/rk"
}

install_binary() {
    if is_true "${INSTALL_RK_SKIP_DOWNLOAD:-}"; then
        [ -x "$BIN_DIR/rk" ] || fatal "INSTALL_RK_SKIP_DOWNLOAD is set, but $BIN_DIR/rk is not there"
        info "using $BIN_DIR/rk"
    else
        download
    fi
    [ -e "$BIN_DIR/kubectl" ] || command -v kubectl >/dev/null 2>&1 ||
        info "kubectl is not installed; any version from 1.32 works, with KUBECONFIG=$CONFIG_DIR/rk.yaml"
}

# Variables of the service, 0600: RK_TOKEN is among them. Quoted so that systemd and sh read the same.
write_environment() {
    mkdir -p "$CONFIG_DIR"
    environment=$CONFIG_DIR/$NAME.env
    rm -f "$environment"
    (umask 077 && env | sed -n "/^RK_[A-Z_]*=/b keep
        /^\(HTTPS\{0,1\}\|NO\)_PROXY=/!d
        :keep
        s/'/'\\\\''/g
        s/=\(.*\)/='\1'/p" >"$environment")
}

write_systemd() {
    mkdir -p "$SYSTEMD_DIR"
    cat >"$SYSTEMD_DIR/$NAME.service" <<EOF
[Unit]
Description=rk, lightweight Kubernetes ($role)
Wants=network-online.target
After=network-online.target

[Service]
Type=notify
EnvironmentFile=-$CONFIG_DIR/$NAME.env
ExecStart=$BIN_DIR/rk $command
# Only rk itself is stopped: containers go on running over a restart or an upgrade.
KillMode=process
Delegate=yes
Restart=always
RestartSec=2s
# A server that was removed from its cluster must not be started again and again.
RestartPreventExitStatus=78
TimeoutStartSec=0
LimitNOFILE=1048576
LimitNPROC=infinity
LimitCORE=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
EOF
}

# supervise-daemon starts again whatever ends, and knows no exit status that is final.
write_supervised() {
    cat >"$BIN_DIR/rk-supervised.sh" <<'EOF'
#!/bin/sh
# rk-supervised.sh SERVICE COMMAND...: runs rk for openrc. When it ends with 78, as a server does that was removed from its
# cluster, the service is stopped instead of being started again and again.
service=$1
shift
"$@" &
rk=$!
# Stopping the service ends this script: rk is told, and waited for.
trap 'kill -TERM "$rk" 2>/dev/null' TERM INT HUP
wait "$rk"
status=$?
while kill -0 "$rk" 2>/dev/null; do
    wait "$rk"
    status=$?
done
[ "$status" = 78 ] || exit "$status"
echo "rk has ended for good (exit status 78): stopping the service $service"
# Stopping the service ends this script, and what it waits for.
waited=
trap 'kill $waited 2>/dev/null; exit 78' TERM INT HUP
# Without openrc's variables, which are of the start. That may be under way still; then nothing can be stopped yet.
until env -i PATH="$PATH" rc-service --quiet "$service" stop </dev/null; do sleep 2; done &
waited=$!
wait "$waited"
while :; do
    sleep 3600 &
    waited=$!
    wait "$waited"
done
EOF
    chmod 755 "$BIN_DIR/rk-supervised.sh"
}

write_openrc() {
    mkdir -p "$OPENRC_DIR"
    write_supervised
    cat >"$OPENRC_DIR/$NAME" <<EOF
#!/sbin/openrc-run
description="rk, lightweight Kubernetes ($role)"
supervisor=supervise-daemon
command="$BIN_DIR/rk-supervised.sh"
command_args="$NAME $BIN_DIR/rk $command"
output_log="/var/log/$NAME.log"
error_log="/var/log/$NAME.log"
pidfile="/run/$NAME.pid"
respawn_delay=2
# Without an end, unless rk has ended for good; by itself openrc gives up after ten times in all.
respawn_max=0
# rk hands over what it leads before it stops.
retry="SIGTERM/60/SIGKILL/5"
# One option: a shell that takes no second one, as Debian's, would set none.
rc_ulimit="-n 1048576"
set -o allexport
[ -f $CONFIG_DIR/$NAME.env ] && . $CONFIG_DIR/$NAME.env
set +o allexport

depend() {
    after network-online
    want cgroups
}
EOF
    chmod 755 "$OPENRC_DIR/$NAME"
}

write_killall() {
    cat >"$BIN_DIR/rk-killall.sh" <<EOF
#!/bin/sh
# Stops rk and ends every container of this machine, with its mounts, links, nftables table and cgroups. Data stays.
[ "\$(id -u)" = 0 ] || exec sudo "\$0" "\$@"
for unit in "$SYSTEMD_DIR"/rk.service "$SYSTEMD_DIR"/rk-agent.service "$SYSTEMD_DIR/$NAME.service"; do
    [ -e "\$unit" ] && [ -d /run/systemd/system ] && systemctl stop "\$(basename "\$unit")"
done
for script in "$OPENRC_DIR"/rk "$OPENRC_DIR"/rk-agent "$OPENRC_DIR/$NAME"; do
    [ -x "\$script" ] && "\$script" stop
done
if [ -f "$CONFIG_DIR/$NAME.env" ]; then
    set -o allexport
    . "$CONFIG_DIR/$NAME.env"
    set +o allexport
fi
"$BIN_DIR/rk" kill-all
EOF
    chmod 755 "$BIN_DIR/rk-killall.sh"
}

write_uninstall() {
    cat >"$BIN_DIR/rk-uninstall.sh" <<EOF
#!/bin/sh
# Removes rk and everything it keeps on this machine, the cluster's data included.
[ "\$(id -u)" = 0 ] || exec sudo "\$0" "\$@"
"$BIN_DIR/rk-killall.sh"
if [ -f "$CONFIG_DIR/$NAME.env" ]; then
    . "$CONFIG_DIR/$NAME.env"
fi
if [ -e "$SYSTEMD_DIR/$NAME.service" ]; then
    [ -d /run/systemd/system ] && systemctl disable "$NAME"
    rm -f "$SYSTEMD_DIR/$NAME.service"
    [ -d /run/systemd/system ] && systemctl daemon-reload
fi
if [ -e "$OPENRC_DIR/$NAME" ]; then
    rc-update delete "$NAME" default
    rm -f "$OPENRC_DIR/$NAME" "/var/log/$NAME.log" "$BIN_DIR/rk-supervised.sh"
fi
rm -rf "\${RK_DATA_DIR:-/var/lib/rk}" "\${RK_STATE_DIR:-/run/rk}" "\${RK_LOG_DIR:-/var/log}/pods" "\${RK_LOG_DIR:-/var/log}/containers" "$CONFIG_DIR"
# A folder of its own for logs goes when nothing else is in it.
[ -z "\${RK_LOG_DIR:-}" ] || rmdir "\$RK_LOG_DIR" 2>/dev/null
rm -f "$BIN_DIR/rk" "$BIN_DIR/rk-killall.sh" "$BIN_DIR/rk-uninstall.sh"
EOF
    chmod 755 "$BIN_DIR/rk-uninstall.sh"
}

install_service() {
    case "$init" in
        systemd)
            write_systemd
            [ -d /run/systemd/system ] || return 0
            systemctl daemon-reload
            is_true "${INSTALL_RK_SKIP_ENABLE:-}" || systemctl enable "$NAME"
            is_true "${INSTALL_RK_SKIP_START:-}" || { info "starting $NAME"; systemctl restart "$NAME"; }
            ;;
        openrc)
            write_openrc
            is_true "${INSTALL_RK_SKIP_ENABLE:-}" || rc-update add "$NAME" default
            is_true "${INSTALL_RK_SKIP_START:-}" || { info "starting $NAME"; "$OPENRC_DIR/$NAME" restart; }
            ;;
    esac
}

main() {
    need_root
    choose_command "$@"
    choose_init
    install_binary
    write_environment
    write_killall
    write_uninstall
    install_service
    info "installed: $BIN_DIR/rk $command"
}

# The whole script is read before anything runs: a download cut short does nothing.
main "$@"
