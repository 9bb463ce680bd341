// Package tc writes traffic control of Linux over netlink: the IFB device
// through which throttled packets go, its HTB classes, and the filters that
// send them there. See actions.TCObject.
package tc
