// Package web is the web interface, as files: what scripts/web.sh makes of the
// sources beside this file, committed in dist/ so that building netpolicyd needs
// neither node nor npm. `scripts/web.sh --check` proves that dist/ is what the
// sources give.
package web

import (
	"embed"
	"io/fs"
)

//go:embed dist
var dist embed.FS

// Files are the interface's files; index.html is the page. Those in assets/ have
// a hash of their content in their name, so browsers may keep them for ever.
func Files() fs.FS {
	sub, err := fs.Sub(dist, "dist")
	if err != nil {
		panic(err) // the name is a constant, and valid
	}
	return sub
}
