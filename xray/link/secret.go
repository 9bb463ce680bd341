package link

// mask is what is shown in the place of a secret.
const mask = "***"

// Secret is a text that must not be shown: a password, a key, the identity of a
// user, or a value of which nobody knows what it is. Printing, logging and
// marshalling it gives "***"; Reveal gives the text. Its zero value is no secret.
type Secret string

// Reveal returns the text itself.
func (s Secret) Reveal() string { return string(s) }

// String returns "***", or "" where there is nothing to hide.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return mask
}

// GoString is String for the verb %#v.
func (s Secret) GoString() string { return `"` + s.String() + `"` }

// MarshalText is String for JSON, YAML and structured logs.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// Object is the text of a JSON object, kept to the byte. It can hold passwords,
// so it is shown as a Secret is. Its zero value is no object.
type Object string

// Reveal returns the JSON text itself.
func (o Object) Reveal() string { return string(o) }

// String returns "***", or "" where there is no object.
func (o Object) String() string { return Secret(o).String() }

// GoString is String for the verb %#v.
func (o Object) GoString() string { return Secret(o).GoString() }

// MarshalText is String for JSON, YAML and structured logs.
func (o Object) MarshalText() ([]byte, error) { return []byte(o.String()), nil }
