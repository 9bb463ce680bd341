// Package lsp is the language server of policies, in both syntaxes: LSP 3.17 over
// a pair of streams.
//
//	err := lsp.Serve(ctx, os.Stdin, os.Stdout, lsp.Options{ReadFile: os.ReadFile})
//
// One goroutine reads messages, one answers them in their order. Diagnostics are
// computed while no message waits, so a burst of changes gets one answer, and that
// one is always about the newest text. What the server knows of a text comes from
// the same functions that the command line uses: load.Policy and engine.Compile.
//
// No text can end the server: a panic is answered as an internal error.
package lsp
