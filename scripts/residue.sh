#!/usr/bin/env bash
# Prints what tests and the lab must not leave behind: namespaces, firewall
# tables, ip rules, routes and processes of ours. Two runs are compared.
set -u
echo "namespaces:"
ip netns list 2>/dev/null | sort
echo "nft:"
nft list tables 2>/dev/null | sort
for f in -4 -6; do
  echo "rules $f:"
  ip $f rule 2>/dev/null
  echo "routes $f:"
  ip $f route show table all 2>/dev/null | sed -E 's/ expires [0-9]+sec//' | sort
done
echo "links:"
ip -o link 2>/dev/null | awk -F': ' '{print $2}' | sort
echo "processes:"
ps -eo stat=,comm= | awk '$1 !~ /^Z/ && $2 ~ /^netpolicy/ {print $2}' | sort
exit 0
