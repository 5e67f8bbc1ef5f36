;; Exports the four names of the contract with types of its own.
(component
  (core module $module
    (func (export "f") (result i32) i32.const 7))
  (core instance $main (instantiate $module))
  (func $f (result u32) (canon lift (core func $main "f")))
  (export "describe" (func $f))
  (export "start" (func $f))
  (export "resume" (func $f))
  (export "query" (func $f))
)
