;; A core module with the right names: not a component at all.
(module
  (memory (export "memory") 1)
  (func (export "describe") (result i32) i32.const 0)
  (func (export "start") (param i32 i32 i32 i32) (result i32) i32.const 0)
  (func (export "resume") (result i32) i32.const 0)
  (func (export "query") (param i32 i32 i32 i32) (result i32) i32.const 0)
)
