#!/usr/bin/env bash
# A session of `az batch` with the local service. AZURE_BATCH_ACCOUNT, AZURE_BATCH_ACCESS_KEY and AZURE_BATCH_ENDPOINT name it:
#     eval "$(batchexec emulator env)"; tests/outside/az_session.sh
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export AZURE_CONFIG_DIR=$work/config AZURE_CORE_COLLECT_TELEMETRY=no AZURE_CORE_ONLY_SHOW_ERRORS=yes

batch() { az batch "$@" --account-endpoint "$AZURE_BATCH_ENDPOINT"; }

# expect WORDS COMMAND...: the command prints these words, whatever lies between them.
expect() {
    local wanted=$1 found
    shift
    found=$(batch "$@" --output tsv | tr -s '[:space:]' ' ' | sed 's/ $//')
    if [ "$found" != "$wanted" ]; then
        echo "az batch $*: '$found' instead of '$wanted'" >&2
        exit 1
    fi
    echo "ok: $*"
}

# await WORDS COMMAND...: the same, within half a minute.
await() {
    local wanted=$1 end=$((SECONDS + 30))
    shift
    until [ "$(batch "$@" --output tsv | tr -s '[:space:]' ' ' | sed 's/ $//')" = "$wanted" ]; do
        if [ $SECONDS -ge $end ]; then
            batch "$@" >&2
            echo "az batch $*: never '$wanted'" >&2
            exit 1
        fi
    done
    echo "ok: $*"
}

# refused CODE COMMAND...: the command fails with the service's error.
refused() {
    local code=$1 said
    shift
    if said=$(batch "$@" 2>&1); then
        echo "az batch $*: not refused" >&2
        exit 1
    fi
    case $said in
        *"$code"*) echo "ok: $* is refused: $code" ;;
        *) echo "az batch $*: $said" >&2; exit 1 ;;
    esac
}

batch pool create --id outside --vm-size Standard_D2s_v5 --target-dedicated-nodes 1 \
    --image canonical:ubuntu-24_04-lts:server:latest --node-agent-sku-id 'batch.node.ubuntu 24.04' --metadata from=az
expect 'outside active Standard_D2s_v5 az' pool show --pool-id outside --query '[id,state,vmSize,metadata[0].value]'
expect 'outside' pool list --filter "id eq 'outside'" --query '[].id'
refused PoolExists pool create --id outside --vm-size Standard_D2s_v5 \
    --image canonical:ubuntu-24_04-lts:server:latest --node-agent-sku-id 'batch.node.ubuntu 24.04'
await 'steady 1' pool show --pool-id outside --query '[allocationState,currentDedicatedNodes]'
batch pool resize --pool-id outside --target-dedicated-nodes 2 > "$work/resized"
await 'steady 2' pool show --pool-id outside --query '[allocationState,currentDedicatedNodes]'
await '2' node list --pool-id outside --query "length([?state=='idle'])"

batch pool autoscale enable --pool-id outside --auto-scale-formula "\$TargetDedicatedNodes=2;"
expect 'true' pool autoscale evaluate --pool-id outside --auto-scale-formula "\$TargetDedicatedNodes=1;" \
    --query "starts_with(results, '\$TargetDedicatedNodes=1')"
batch pool autoscale disable --pool-id outside
expect 'false' pool show --pool-id outside --query enableAutoScale

batch job create --id session --pool-id outside --priority 7
expect 'session active 7' job show --job-id session --query '[id,state,priority]'
batch job set --job-id session --priority 11
expect '11' job show --job-id session --query priority
expect 'session' job list --filter "id eq 'session'" --query '[].id'
refused JobNotFound job show --job-id none

batch task create --job-id session --task-id alone --command-line "/bin/sh -c 'echo hello from \$AZ_BATCH_TASK_ID'" > "$work/alone"
cat > "$work/tasks.json" << 'JSON'
[
  {"id": "first", "commandLine": "/bin/sh -c 'echo one; echo two > kept.txt'", "constraints": {"maxTaskRetryCount": 2}},
  {"id": "fails", "commandLine": "/bin/sh -c 'echo reason >&2; exit 3'",
   "environmentSettings": [{"name": "COLOUR", "value": "blue"}]}
]
JSON
batch task create --job-id session --json-file "$work/tasks.json" > "$work/created"
expect 'alone fails first' task list --job-id session --query 'sort([].id)'
await '3' task list --job-id session --query "length([?state=='completed'])"
expect 'completed 0 success' task show --job-id session --task-id first --query '[state,executionInfo.exitCode,executionInfo.result]'
expect '3 FailureExitCode' task show --job-id session --task-id fails \
    --query '[executionInfo.exitCode,executionInfo.failureInfo.code]'
expect '0 0 3 2 1' job task-counts show --job-id session \
    --query 'taskCounts.[active,running,completed,succeeded,failed]'

expect 'stderr.txt stdout.txt wd wd/kept.txt' task file list --job-id session --task-id first --recursive --query 'sort([].name)'
batch task file download --job-id session --task-id first --file-path wd/kept.txt --destination "$work/kept.txt" > "$work/downloaded"
[ "$(cat "$work/kept.txt")" = two ]
batch task file download --job-id session --task-id alone --file-path stdout.txt --destination "$work/hello.txt" > "$work/downloaded"
[ "$(cat "$work/hello.txt")" = 'hello from alone' ]
refused FileNotFound task file download --job-id session --task-id alone --file-path wd/none --destination "$work/none"

batch task reactivate --job-id session --task-id fails
await 'completed' task show --job-id session --task-id fails --query state
batch task delete --job-id session --task-id fails --yes
refused TaskNotFound task show --job-id session --task-id fails

batch job disable --job-id session --disable-tasks requeue > "$work/disabled"
await 'disabled' job show --job-id session --query state
batch job enable --job-id session > "$work/enabled"
await 'active' job show --job-id session --query state
batch job stop --job-id session --terminate-reason enough > "$work/stopped"
await 'completed enough' job show --job-id session --query '[state,executionInfo.terminateReason]'
refused JobCompleted task create --job-id session --task-id late --command-line true
batch job delete --job-id session --yes > "$work/deleted"
await '0' job list --query 'length([])'
batch pool delete --pool-id outside --yes > "$work/deleted"
await '0' pool list --query 'length([])'
echo "az session: all as expected"
