// Package interop checks that what detvm signs is understood by others: by sigstore-go, the reference implementation of Sigstore bundles, and by openssl.
// It is a module of its own, so that sigstore-go's dependencies stay out of detvm's.
package interop
