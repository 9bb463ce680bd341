# What failed in the output of `go test -v`: each failing test with its own output, of which the first
# 80 and the last 20 lines are shown. A package whose tests came to no end (a panic, a build that
# failed) is shown with the tests that ran and with what stands outside of tests, bounded likewise.

function keep(line) { text[current, lines[current]++] = line }

function forget(name,    i) {
  for (i = 0; i < lines[name]; i++) delete text[name, i]
  delete lines[name]
}

function show(name,    i, n) {
  n = lines[name]
  for (i = 0; i < n; i++) {
    if (n > 100 && i == 80) {
      print "    ... " n - 100 " lines are left out ..."
      i = n - 20
    }
    print text[name, i]
  }
  forget(name)
}

/^=== (RUN|CONT|NAME) / {current = $3; if ($2 == "RUN") {order[count++] = $3; open[$3] = 1}; next}
/^=== / {next}

/^ *--- (PASS|SKIP|FAIL): / {
  if ($2 == "FAIL:") {print; show($3)} else forget($3)
  delete open[$3]
  current = ""
  next
}

# Messages of the compiler stand where a build ended, which is not where its package is told.
/^# / {current = "#"}

# What ends a program stands outside of tests, though a test has done it.
/^(panic:|fatal error:|SIG[A-Z]+:)/ {forget(""); current = ""}

/^(ok  |FAIL|---|\?   )\t/ {
  if ($1 == "FAIL") {
    print
    show(/(build|setup) failed/ ? "#" : "")
  }
  for (i = 0; i < count; i++) {
    if ($1 == "FAIL" && open[order[i]]) {
      print "    " order[i] " came to no end:"
      show(order[i])
    }
    forget(order[i])
  }
  forget("")
  split("", order); split("", open)
  count = 0
  current = ""
  next
}

/^(PASS|FAIL|exit status [0-9]+)$/ {next}
{keep($0)}
