module github.com/detvm/detvm/tests/interop

go 1.26.0

replace github.com/detvm/detvm => ../..
