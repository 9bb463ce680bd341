#!/bin/sh
# Runs this example for real, in namespaces of its own; needs root. NETPOLICY
# names another netpolicy; netpolicyd is expected beside it.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
netpolicy=${NETPOLICY:-$here/../../bin/netpolicy}
"$netpolicy" lint "$here/policy.yaml"
"$netpolicy" test "$here/scenario.sim"
"$netpolicy" lab run "$here"
