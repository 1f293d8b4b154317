module host

go 1.25

require libqwen/bindings/go v0.0.0

replace libqwen/bindings/go => ../../../bindings/go
