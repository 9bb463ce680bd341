package lab

type daemon struct{}

func (l *Lab) KillDaemon() error { return nil }
