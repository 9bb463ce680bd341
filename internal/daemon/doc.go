// Package daemon wires the parts together and runs them.
package daemon
