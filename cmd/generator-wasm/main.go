//go:build js && wasm

// Command generator-wasm is xray/generator for browsers and Node, compiled with
// GOOS=js GOARCH=wasm. Once it runs there is one function,
//
//	netpolicyXray(name, request)
//
// which takes and gives JSON as strings, as generator.Call does. It uses no network.
package main

import (
	"syscall/js"

	"netpolicy.dev/netpolicy/xray/generator"
)

func main() {
	js.Global().Set("netpolicyXray", js.FuncOf(func(_ js.Value, args []js.Value) any {
		if len(args) != 2 || args[0].Type() != js.TypeString || args[1].Type() != js.TypeString {
			return `{"error":"netpolicyXray takes the name of a function and its request as JSON"}`
		}
		return string(generator.Call(args[0].String(), []byte(args[1].String())))
	}))
	select {} // as long as the page lives
}
