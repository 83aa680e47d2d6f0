# `cmake --install build --prefix DIR`: the tool, and a relocatable package for find_package(Spikefold COMPONENTS formats kernels ...).
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

set(SPIKEFOLD_COMPONENTS base formats kernels runtime calib quant report)
target_include_directories(spikefold_base INTERFACE $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}/spikefold>)
target_compile_features(spikefold_base PUBLIC cxx_std_20)
foreach(component IN LISTS SPIKEFOLD_COMPONENTS)
  set_target_properties(spikefold_${component} PROPERTIES EXPORT_NAME ${component})
  install(TARGETS spikefold_${component} EXPORT SpikefoldTargets ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
endforeach()
install(TARGETS spikefold RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
install(DIRECTORY formats kernels calib quant DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/spikefold FILES_MATCHING PATTERN "*.h")
install(DIRECTORY apps/report DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}/spikefold/apps FILES_MATCHING PATTERN "*.h")
install(FILES LICENSE README.md CHANGELOG.md DESTINATION ${CMAKE_INSTALL_DOCDIR})

set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/Spikefold)
install(EXPORT SpikefoldTargets NAMESPACE Spikefold:: DESTINATION ${package_dir})
configure_package_config_file(cmake/SpikefoldConfig.cmake.in ${CMAKE_BINARY_DIR}/SpikefoldConfig.cmake
  INSTALL_DESTINATION ${package_dir} NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file(${CMAKE_BINARY_DIR}/SpikefoldConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_BINARY_DIR}/SpikefoldConfig.cmake ${CMAKE_BINARY_DIR}/SpikefoldConfigVersion.cmake DESTINATION ${package_dir})
