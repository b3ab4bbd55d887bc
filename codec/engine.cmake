# The engine: integer networks and entropy coding of one block. Included by codec/CMakeLists.txt,
# which compiles these into the library nsvq.
set(NSVQ_ENGINE_SOURCES
  ${CMAKE_CURRENT_LIST_DIR}/block.c
  ${CMAKE_CURRENT_LIST_DIR}/hyper.c
  ${CMAKE_CURRENT_LIST_DIR}/engine.c
  ${CMAKE_CURRENT_LIST_DIR}/net.c
  ${CMAKE_CURRENT_LIST_DIR}/prior.c
  ${CMAKE_CURRENT_LIST_DIR}/rans.c
  ${CMAKE_CURRENT_LIST_DIR}/trellis.c)
