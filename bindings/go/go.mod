module libqwen/bindings/go

go 1.25
